"""The probes as callbacks of a training, which make themselves when they are first due.

ex.train("benchmarks/exploration/evidence.yaml", callbacks=[gradient_probe(every=20), gain_probe(every=20)])
"""

from collections.abc import Mapping, Sequence

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.explore.explorer import Explorer
from extra_jax.runtime import sampling_params
from extra_jax.stages import BeforeUpdate, Callback

from .gain import GainProbe
from .gradient import GradientProbe, advantage_parts


def gradient_probe(every: int, folds: int = 4) -> Callback:
    """Metrics ``gradient/*``, every so many steps."""
    made: list[GradientProbe] = []

    def call(now: BeforeUpdate) -> Mapping[str, float]:
        if not made:
            made.append(
                GradientProbe(now.runtime.graphdef, now.runtime.config, now.runtime.mesh, every=every, folds=folds)
            )
        rollouts = now.sampled.rollouts
        lineage = np.array([prompt.lineage is not None for prompt in now.sampled.prompts], bool)
        parts = advantage_parts(now.advantages, now.explored.advantages, lineage[rollouts.prompt_index])
        return made[0](now.params, rollouts, parts, now.step)

    return call


def gain_probe(every: int, prompts: int = 32, samples: int = 8) -> Callback:
    """Metrics ``exploration/gain_*``, every so many steps; for runs whose first prompt policy is ``prefixes``."""
    made: list[GainProbe] = []

    def call(now: BeforeUpdate) -> Mapping[str, float]:
        if not isinstance(now.exploration, Explorer):
            return {}
        if not made:

            def correct(problems: Sequence[Problem], texts: Sequence[str]) -> np.ndarray:
                ids = [now.runtime.tokenizer.encode(text) for text in texts]
                return now.rewards(problems, texts, ids).correct

            sampler = now.runtime.sampler(sampling_params(now.runtime.config), stream="probe")
            made.append(GainProbe(now.exploration.run, now.exploration, sampler, correct, every, prompts, samples))
        return made[0](now.weights, now.step)

    return call
