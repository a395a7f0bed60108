"""From a configuration to a training: what the verb ``train`` runs. ``train.py`` itself knows no exploration."""

from collections.abc import Mapping

from extra_jax.config import Config
from extra_jax.exploration import Parts
from extra_jax.explore.adapter import NoveltyAndPrefixes
from extra_jax.explore.gain import GainProbe
from extra_jax.learn.variance import GradientProbe
from extra_jax.policy import sampling_params
from extra_jax.run import TrainResult
from extra_jax.stages import BeforeUpdate, Callback
from extra_jax.train import train as train_grpo


def train(config: Config) -> TrainResult:
    """GRPO with the exploration that ``explore`` describes, and the probes that ``explore.probe`` asks for.

    Raises:
        ExtraError: bad input, found before the first step wherever possible.
    """
    if not config.explore.active:
        return train_grpo(config, callbacks=gradient_probe(config))
    exploration: list[NoveltyAndPrefixes] = []

    def explore(parts: Parts) -> NoveltyAndPrefixes:
        exploration.append(NoveltyAndPrefixes(parts))
        return exploration[0]

    gain: list[GainProbe] = []

    def probe_gain(now: BeforeUpdate) -> Mapping[str, float]:
        if not gain:
            sampler = now.policy.sampler(sampling_params(config), stream="probe")
            gain.append(GainProbe(exploration[0].explorer, sampler, now.grader))
        return gain[0](now.weights, now.step)

    callbacks = [*gradient_probe(config), *([probe_gain] if config.explore.probe.gain_every else [])]
    return train_grpo(config, explore=explore, callbacks=callbacks)


def gradient_probe(config: Config) -> list[Callback]:
    """The probe of ``explore.probe.gradient_every``, or nothing."""
    probe: list[GradientProbe] = []

    def call(now: BeforeUpdate) -> Mapping[str, float]:
        if not probe:
            probe.append(GradientProbe(now.policy.graphdef, config, now.policy.mesh))
        return probe[0](now.params, now.sampled.rollouts, now.explored.parts, now.step)

    return [call] if config.explore.probe.gradient_every else []
