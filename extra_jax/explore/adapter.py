"""``Explorer`` behind the protocol that the training loop knows (``exploration.py``)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.exploration import Explored, Parts, PromptRequest
from extra_jax.explore.explorer import Explorer
from extra_jax.explore.injection import Slot
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts


class NoveltyAndPrefixes:
    """What the section ``explore`` of a configuration describes.

    Args:
        parts: of the run.

    Raises:
        ExtraError: the encoder does not load, or the run that a control is yoked to does not fit.
    """

    def __init__(self, parts: Parts):
        self.explorer = Explorer(parts.policy.config, parts.problems, parts.prompts, parts.policy.tokenizer)
        self._advantage = parts.advantage

    def prompts(self, draw: Callable[[int], list[Problem]], step: int, count: int) -> list[PromptRequest]:
        self.explorer.inject(lambda: draw(count), step)
        in_prompt = self.explorer.settings.prefix.budget == "full"
        return [PromptRequest(_as_graded(slot), slot.prefix_ids, in_prompt, slot) for slot in self.explorer.slots]

    def spans(self, rollouts: Rollouts) -> np.ndarray | None:
        return self.explorer.spans(rollouts)

    def advantages(
        self,
        requests: list[PromptRequest],
        rollouts: Rollouts,
        scores: Scores,
        advantages: np.ndarray,
        hidden: np.ndarray | None,
        step: int,
    ) -> Explored:
        def task(rewards: np.ndarray) -> np.ndarray:
            same = rewards is scores.rewards
            return advantages if same else self._advantage(replace(scores, rewards=rewards), rollouts)

        explorer = self.explorer
        total = explorer.observe(rollouts, hidden, scores.grades, scores.rewards, scores.valid, task, step)
        return Explored(total, explorer.metrics, explorer.columns, explorer.parts)

    def state(self) -> dict[str, Any] | None:
        return {"npz": self.explorer.dumps()}

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.explorer.loads(state["npz"])


def _as_graded(slot: Slot) -> Problem:
    """What is asked, with the ground truth that it is graded against; another's in the replica of defect D1."""
    asked, graded = slot.problem, slot.graded
    return asked if graded is asked else replace(graded, uid=asked.uid, prompt=asked.prompt, source=asked.source)
