"""A finished step as exploration sees it: all completions of all processes, the same numbers on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.explore.distance import normalise
from extra_jax.explore.encoders import EncoderSettings, completion_text, make_encoder
from extra_jax.parallel.processes import allgather, gather_objects
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts


@dataclass(frozen=True)
class Layout:
    """Completions by problem, also where a problem comes twice in a step."""

    uids: list[str]  # [K]
    members: np.ndarray  # [K, W] indices into the `N` completions, -1 where a problem has fewer
    total: int  # `N`

    @property
    def present(self) -> np.ndarray:
        """``[K, W]`` bool; 1 marks a completion, 0 padding."""
        return self.members >= 0

    def spread(self, values: np.ndarray) -> np.ndarray:
        """``[P, G, ...]`` or ``[N, ...]`` -> ``[K, W, ...]``; zero in the padding."""
        rows = values if len(values) == self.total else values.reshape(self.total, *values.shape[2:])
        taken = rows[self.members]
        taken[~self.present] = 0
        return taken

    def collect(self, values: np.ndarray, group_size: int, fill: Any = np.nan) -> np.ndarray:
        """``[K, W]`` -> ``[P, G]``; ``fill`` for completions that are not in the layout."""
        rows = np.full(self.total, fill, values.dtype)
        rows[self.members[self.present]] = values[self.present]
        return rows.reshape(-1, group_size)


def layout(keys: Sequence[str | None]) -> Layout:
    """Completions of equal key together, in order of appearance; ``None`` leaves one out."""
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(row)
    members = np.full((len(groups), max(map(len, groups.values()), default=1)), -1, np.int64)
    for index, rows in enumerate(groups.values()):
        members[index, : len(rows)] = rows
    return Layout(list(groups), members, len(keys))


@dataclass(frozen=True)
class RunInfo:
    """What does not change during a run.

    Attributes:
        problems: all training problems, by uid.
        prompt_ids: token ids of their prompts, by uid.
        tokenizer: of the policy.
        seed: of the run.
        max_steps: steps of the run.
        prompts_per_step: ``P``.
        group_size: ``G``, completions of a prompt.
        max_prompt_length, max_completion_length: in tokens.
        encoder: of texts, see ``encoders.make_encoder``.
    """

    problems: Mapping[str, Problem]
    prompt_ids: Mapping[str, list[int]]
    tokenizer: Tokenizer
    seed: int
    max_steps: int
    prompts_per_step: int
    group_size: int
    max_prompt_length: int
    max_completion_length: int
    encoder: EncoderSettings = field(default_factory=EncoderSettings)


@dataclass(frozen=True)
class Step:
    """``P`` prompts with ``G`` completions each. ``N = P x G``; arrays ``[P, G]`` are float64 or bool.

    Attributes:
        index: of the step, from 0.
        run: what does not change.
        requests: ``[P]`` what was asked, of all processes.
        rewards: before any baseline.
        advantages: of the estimator, before exploration.
        correct, valid: as of ``Scores``; a completion that is not valid was not graded.
        truncated: hit the length cap.
        lengths: tokens of the completion, without a prefix.
        logprobs: nats, summed over the completion, under the sampling distribution.
        entropies: nats, mean token entropy of the completion.
        rollout_ids: identity of each completion in the step.
        hidden: ``[N, D]`` f32 mean last hidden state of each completion, or ``None`` where nobody reads it.
        rollouts: the completions of *this process*, whose first is completion ``first_row`` of the step.
        first_row: see ``rollouts``.
    """

    index: int
    run: RunInfo
    requests: list[PromptRequest]
    rewards: np.ndarray
    advantages: np.ndarray
    correct: np.ndarray
    valid: np.ndarray
    truncated: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    entropies: np.ndarray
    rollout_ids: np.ndarray
    hidden: np.ndarray | None
    rollouts: Rollouts
    first_row: int

    @property
    def uids(self) -> list[str]:
        """``[P]`` of the problems."""
        return [request.problem.uid for request in self.requests]

    @cached_property
    def guided(self) -> np.ndarray:
        """``[P]`` bool; 1 marks a prompt that came back with something of its past (``lineage``)."""
        return np.array([request.lineage is not None for request in self.requests], bool)

    @cached_property
    def mixed(self) -> np.ndarray:
        """``[P]`` bool; 1 where some completion is correct and some is not."""
        solved = self.correct.sum(axis=1)
        return (solved > 0) & (solved < self.correct.shape[1])

    @cached_property
    def plain(self) -> Layout:
        """The completions of plain prompts, by problem."""
        return self.by_problem(~self.guided)

    def by_problem(self, chosen: np.ndarray) -> Layout:
        """The completions of the prompts ``chosen [P]`` (bool), by problem."""
        size = self.rewards.shape[1]
        return layout([uid if ok else None for uid, ok in zip(self.uids, chosen, strict=True) for _ in range(size)])

    @cached_property
    def _encoded(self) -> tuple[np.ndarray, float]:
        encoder, rollouts = make_encoder(self.run.encoder), self.rollouts
        if encoder is None:  # policy_hidden
            if self.hidden is None:
                raise ExtraError("a transform that looks at step.vectors has to say reads=('vectors',)")
            return normalise(self.hidden), 0.0
        rows = range(len(rollouts))
        span = self.run.encoder.text_span
        texts = [completion_text(rollouts.completion_ids(row), self.run.tokenizer, span) for row in rows]
        vectors = allgather(encoder.encode(texts))
        cut = int(allgather(np.array([encoder.truncated])).sum())
        return vectors, cut / len(vectors)

    @property
    def vectors(self) -> np.ndarray:
        """``[N, E]`` f32 of length 1: what ``explore.encoder`` makes of the completions, encoded when first asked for.

        All processes ask for them together.
        """
        return self._encoded[0]

    @property
    def truncated_texts(self) -> float:
        """Share of the completions of which the encoder saw only a part."""
        return self._encoded[1]

    @property
    def local(self) -> slice:
        """Where the completions of this process are among all ``N``."""
        return slice(self.first_row, self.first_row + len(self.rollouts))

    def gather(self, own: Sequence[Any]) -> list[Any]:
        """One plain value for each completion of this process -> those of all ``N``. All processes call it together."""
        return gather_objects(list(own))


def make_step(
    index: int,
    run: RunInfo,
    requests: list[PromptRequest],
    rollouts: Rollouts,
    scores: Scores,
    advantages: np.ndarray,
    hidden: np.ndarray | None,
    first_row: int,
) -> Step:
    """Gathers what all processes saw. They call it together."""
    mask = rollouts.completion_mask
    columns = {
        "rewards": scores.rewards,
        "advantages": advantages,
        "correct": scores.correct,
        "valid": scores.valid,
        "truncated": rollouts.truncated,
        "lengths": rollouts.lengths,
        "logprobs": np.sum(rollouts.logprobs, axis=1, where=mask, dtype=np.float64),
        "entropies": np.sum(rollouts.entropies, axis=1, where=mask, dtype=np.float64) / np.maximum(rollouts.lengths, 1),
        "rollout_ids": rollouts.rollout_ids,
    }
    gathered = allgather(np.stack([np.asarray(c, np.float64) for c in columns.values()], axis=1)).T
    shaped = dict(zip(columns, gathered.reshape(len(columns), len(requests), run.group_size), strict=True))
    for name, kind in (("correct", bool), ("valid", bool), ("truncated", bool), ("rollout_ids", np.int64)):
        shaped[name] = shaped[name].astype(kind)
    everywhere = None if hidden is None else allgather(np.asarray(hidden, np.float32))
    return Step(index, run, requests, hidden=everywhere, rollouts=rollouts, first_row=first_row, **shaped)
