"""One visit of some prompts without a model: vectors and verdicts in, distances, bonus and advantages out."""

from typing import Any

import numpy as np
from extra_jax.explore.injection import Slot
from extra_jax.explore.state import ExplorationState
from extra_jax.explore.yoke import Recorded

from extra_jax.config import Config, config_from_dict
from extra_jax.data.problem import Problem
from extra_jax.explore.distance import Distances, normalise
from extra_jax.explore.novelty import Measured, Rows, layout, measure, pay, remember
from extra_jax.learn.estimators import grpo


def config_of(explore: dict[str, Any], **train: Any) -> Config:
    train = {"prompts_per_step": 64, "num_generations": 8, "max_steps": 100, **train}
    return config_from_dict({"model": {"preset": "tiny"}, "train": train, "explore": explore})


def rows_of(
    vectors: np.ndarray, correct: np.ndarray, group: int, *, rewards: np.ndarray | None = None, **fields: Any
) -> Rows:
    total = len(correct)
    values = {
        "slot": np.repeat(np.arange(total // group), group),
        "rollout_ids": np.arange(total),
        "lengths": np.full(total, 10.0),
        "logprobs": np.full(total, -10.0),
        "entropies": np.full(total, 0.5),
        "correct": np.asarray(correct, bool),
        "valid": np.ones(total, bool),
        "truncated": np.zeros(total, bool),
        "rewards": np.where(correct, 1.0, -1.0) if rewards is None else rewards,
        "vectors": normalise(vectors),
    }
    return Rows(**(values | fields))


class Visit:
    """All prompts of one step, ``group`` completions each, with the settings of a configuration."""

    def __init__(
        self,
        config: Config,
        state: ExplorationState,
        vectors: np.ndarray,
        correct: np.ndarray,
        group: int,
        *,
        step: int = 0,
        uids: list[str] | None = None,
        recorded: Recorded | None = None,
        **fields: Any,
    ):
        self.config, self.state, self.group, self.step, self.recorded = config, state, group, step, recorded
        self.rows = rows_of(vectors, correct, group, **fields)
        self.slot_uids = uids or [f"p{i}" for i in range(len(correct) // group)]
        self.keys = [self.slot_uids[slot] for slot in self.rows.slot]
        self.where = layout(self.keys)
        self.measured: Measured = measure(
            self.rows,
            self.where,
            state,
            config.explore,
            group=group,
            seed=config.run.seed,
            step=step,
            recorded=recorded,
        )

    @classmethod
    def with_distances(cls, config: Config, values: np.ndarray, correct: np.ndarray) -> "Visit":
        """One prompt whose distances are given."""
        visit = cls(config, ExplorationState(), np.eye(len(values)), correct, len(values))
        given, everybody = Distances(values[None], visit.measured.real.nearest), np.ones((1, len(values)), bool)
        visit.measured = Measured(given, given, visit.measured.gate, everybody, everybody, visit.measured.nearest)
        return visit

    @staticmethod
    def slot(uid: str) -> Slot:
        problem = Problem(uid, f"question {uid}", "42")
        return Slot(problem, problem)

    def run(self, rewards: np.ndarray) -> "Visit":
        """Pays and remembers; ``rewards [P, G]``."""
        novelty, epsilon = self.config.explore.novelty, self.config.explore.std_epsilon
        valid = np.ones(rewards.shape, bool)
        task = grpo(rewards, valid, "group", epsilon)
        solved = (rewards > 0).sum(axis=1, keepdims=True) * np.ones(rewards.shape)
        mixed = (solved > 0) & (solved < self.group)
        after = novelty.placement == "after"
        self.paid = pay(
            self.measured,
            self.state,
            novelty,
            schedule=1.0,
            recorded=self.recorded,
            advantages=self.where.spread(task.ravel()) if after else None,
            mixed=self.where.spread(mixed.ravel()) if after else None,
        )
        self.bonus = self.where.collect(self.paid.bonus.values, rewards.size).reshape(rewards.shape)
        if after:
            self.advantages = task + self.bonus
        else:
            self.advantages = grpo(rewards + self.bonus, valid, "group", epsilon)
        self.state.scales, self.state.used_scales = self.paid.scales, self.paid.used_scales
        remember(self.rows, self.keys, self.state, novelty, group=self.group, step=self.step)
        return self

    @property
    def distances(self) -> np.ndarray:
        """``[P, G]`` real distances."""
        return self.where.collect(self.measured.real.values, len(self.keys)).reshape(-1, self.group)

    @property
    def bonus_of_distance(self) -> np.ndarray:
        """``[N]`` distances as the release reports them: after its normalisation, before the gate and alpha."""
        values = self.measured.real.values
        if self.config.explore.novelty.scaling == "group_max":
            largest = values.max(axis=1, keepdims=True)
            values = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
        return self.where.collect(values, len(self.keys))
