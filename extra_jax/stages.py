"""What the stages of a training step hand to each other, and who may look in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from extra_jax.data.problem import Problem
from extra_jax.exploration import Exploration, Explored, PromptRequest
from extra_jax.learn.update import TrainState
from extra_jax.reward.rewards import Rewards
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts
from extra_jax.runtime import Runtime


@dataclass(frozen=True)
class Sampled:
    """Graded completions of some prompts, on this process; groups are adjacent and in the order of ``prompts``."""

    requests: list[PromptRequest]  # prompts of all processes, in process order
    prompts: list[PromptRequest]  # [P] of this process; `rollouts.prompt_index` points into it
    rollouts: Rollouts  # `R` completions
    texts: list[str]  # [R] answers, with the prefix that was given
    scores: Scores  # of the `R` completions
    metrics: Mapping[str, float] = field(default_factory=dict)  # further numbers of the step, the same on every process

    @property
    def problems(self) -> list[Problem]:
        """``[P]`` what was asked."""
        return [prompt.problem for prompt in self.prompts]


Draw = Callable[[nnx.State, int, int, int], Sampled]
"""(rollout weights, step, first, count) -> this process's share of ``count`` prompts that follow ``first`` others."""

Sample = Callable[[nnx.State, int], Sampled]
"""(rollout weights, step) -> this process's share of what the step learns from."""

OldLogprobs = Sequence[jax.Array] | None
"""Of each mini-batch, ``[M, B, T]``, where a scoring pass was made already."""

Updates = tuple[TrainState, list[dict[str, jax.Array]]]
"""The state after a step, and the metrics of each optimizer update."""

Learn = Callable[[TrainState, int, Sampled, np.ndarray, OldLogprobs], Updates]
"""(state, step, completions, advantages ``[R]``, old log-probabilities) -> updates."""


class BeforeUpdate(NamedTuple):
    """What a callback may look at: the moment before the update. It changes nothing.

    Attributes:
        step: of the run, from 0.
        runtime: of the run.
        params: training layout.
        weights: the same parameters in the rollout layout.
        rewards: of the run.
        sampled: what the step learns from.
        advantages: ``[R]`` of the estimator, before exploration.
        explored: what the update learns from.
        exploration: of the run; a callback may read its state.
    """

    step: int
    runtime: Runtime
    params: nnx.State
    weights: nnx.State
    rewards: Rewards
    sampled: Sampled
    advantages: np.ndarray
    explored: Explored
    exploration: Exploration


Callback = Callable[[BeforeUpdate], Mapping[str, float]]
"""Further metrics of a step; empty where it is not due. All processes call it together."""
