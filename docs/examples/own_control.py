"""An own control: the novelty bonus, shuffled inside of each group. What is left of an effect is not due to novelty.

extra-jax train configs/exploration.yaml \
    'explore.bonus={"novelty": null, "docs/examples/own_control.py:shuffled_novelty": {"seed": 1}}'
"""

import numpy as np

from extra_jax.explore import Transform, bonus, cap, correct_only, distance, standardise, stateless


def shuffled_novelty(alpha: float = 0.5, seed: int = 0) -> Transform:
    """The chain of ``novelty`` with one more element."""

    def shuffle(step, values, state):
        rng = np.random.default_rng((seed, step.index))  # the same on every process, and after a restart
        shuffled = values.copy()
        for group in shuffled:
            paid = np.isfinite(group)
            group[paid] = rng.permutation(group[paid])
        return shuffled, state, {}

    return bonus(distance(), correct_only(), stateless(shuffle), standardise(alpha), cap(3 * alpha, 1.5))
