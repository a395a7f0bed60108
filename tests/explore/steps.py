"""Finished steps without a model: tokens, verdicts and vectors are written down, everything else follows from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from extra_jax.config import Config, config_from_dict
from extra_jax.data.problem import Problem
from extra_jax.exploration import PromptRequest
from extra_jax.explore import RunInfo, Step, Transform
from extra_jax.explore.attempts import Prefix
from extra_jax.explore.encoders import EncoderSettings
from extra_jax.explore.prefix_state import Guided
from extra_jax.explore.step import make_step
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.rollout.types import Rollouts, StopReason

PROBLEMS = {f"p{i}": Problem(f"p{i}", f"question {i}", f"answer {i}") for i in range(40)}


class Characters:
    """Every ASCII character is a token, so that completions can be written as they are read."""

    vocab_size = 128

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


CHARACTERS = Characters()


def config_with(explore: dict[str, Any], **train: Any) -> Config:
    train = {"prompts_per_step": 64, "num_generations": 8, "max_steps": 100, **train}
    return config_from_dict({"model": {"preset": "tiny"}, "train": train, "explore": explore})


def run_info(**changes: Any) -> RunInfo:
    """Vectors are the hidden states that a step is given, unless another encoder is named."""
    defaults: dict[str, Any] = {
        "problems": PROBLEMS,
        "prompt_ids": {uid: CHARACTERS.encode(problem.prompt) for uid, problem in PROBLEMS.items()},
        "tokenizer": CHARACTERS,
        "seed": 0,
        "max_steps": 100,
        "prompts_per_step": 8,
        "group_size": 4,
        "max_prompt_length": 64,
        "max_completion_length": 64,
        "encoder": EncoderSettings(name="policy_hidden"),
    }
    return RunInfo(**defaults | changes)


def prefix(tokens: int = 4, *, step: int = 0, rollout_id: int = 0, depth: int = 1, score: float = 0.5) -> Prefix:
    return Prefix(np.arange(tokens, dtype=np.int32), score, None, step, rollout_id, depth, 0.5, False, False)


def waiting(uid: str, born: int = 0, **fields: Any) -> Guided:
    return Guided(uid, PROBLEMS[uid].answer, prefix(**fields), 0.5, born)


def asked(*uids: str) -> list[PromptRequest]:
    return [PromptRequest(PROBLEMS[uid]) for uid in uids]


def guided(entry: Guided) -> PromptRequest:
    return PromptRequest(PROBLEMS[entry.uid], tuple(entry.prefix.tokens.tolist()), lineage=entry)


def rollouts_with(
    rows: Sequence[Sequence[int]],
    *,
    group: int = 1,
    prompts: Sequence[Sequence[int]] | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    entropies: Sequence[Sequence[float]] | None = None,
    truncated: Sequence[bool] | None = None,
) -> Rollouts:
    """Completions; entropies are 0.5 and log-probabilities -1 a token where none are given."""
    count, longest = len(rows), max(map(len, rows))
    tokens, numbers = np.zeros((count, longest), np.int32), np.full((count, longest), 0.5, np.float32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        if entropies is not None:
            numbers[index, : len(row)] = entropies[index]
    return Rollouts(
        rollout_ids=np.arange(count),
        prompt_index=np.arange(count, dtype=np.int32) // group,
        prompt_ids=[np.array(ids, int) for ids in prompts or [[1]] * count],
        tokens=tokens,
        lengths=np.array([len(row) for row in rows], np.int32),
        logprobs=np.full(tokens.shape, -1.0, np.float32),
        entropies=numbers,
        stop_reasons=[StopReason.LENGTH if cut else StopReason.STOP_TOKEN for cut in truncated or [False] * count],
        prefix_ids=[np.array(ids, int) for ids in prefixes or [()] * count],
        full_logprobs=np.full(tokens.shape, -1.0, np.float32),
        log_kept=np.zeros(tokens.shape, np.float32),
    )


def scores_with(correct: np.ndarray, rewards: np.ndarray | None = None, valid: np.ndarray | None = None) -> Scores:
    verdicts = [Verdict.CORRECT if right else Verdict.WRONG for right in correct]
    return Scores(
        rewards=correct.astype(np.float64) if rewards is None else rewards,
        valid=np.ones(len(correct), bool) if valid is None else valid,
        correct=correct,
        grades=[Grade(verdict, None, "test") for verdict in verdicts],
    )


def group_relative(rewards: np.ndarray, epsilon: float = 1e-4) -> np.ndarray:
    """``[P, G]`` rewards less their mean, over the deviation (Bessel's correction) of their group."""
    deviation = rewards.std(axis=1, ddof=1, keepdims=True) if rewards.shape[1] > 1 else 0.0
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (deviation + epsilon)


def step_with(
    correct: Any,
    *,
    vectors: Any = None,
    texts: Sequence[str] | None = None,
    run: RunInfo | None = None,
    index: int = 0,
    requests: Sequence[PromptRequest] | None = None,
    rewards: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    advantages: np.ndarray | None = None,
    entropies: Sequence[Sequence[float]] | None = None,
    truncated: Sequence[bool] | None = None,
    epsilon: float = 1e-4,
) -> Step:
    """A step of ``P`` prompts with ``G`` completions each.

    ``vectors [P x G, E]`` are hidden states, ``texts [P x G]`` default to ten times the same letter, and the deviation of
    the estimator has ``epsilon`` added. The others are those of ``Step``, ``[P, G]`` or flat.
    """
    correct = np.asarray(correct, bool)
    count, group = correct.shape
    run = run or run_info(group_size=group, prompts_per_step=count)
    requests = list(requests or asked(*(f"p{i}" for i in range(count))))
    rewards = correct.astype(np.float64) if rewards is None else np.asarray(rewards, np.float64).reshape(correct.shape)
    advantages = group_relative(rewards, epsilon) if advantages is None else np.asarray(advantages, np.float64)
    rollouts = rollouts_with(
        [CHARACTERS.encode(text) for text in texts or ["a" * 10] * correct.size],
        group=group, entropies=entropies, truncated=truncated,
        prefixes=[request.prefix_ids for request in requests for _ in range(group)],
    )  # fmt: skip
    valid = None if valid is None else np.asarray(valid, bool).ravel()
    scores = scores_with(correct.ravel(), rewards.ravel(), valid)
    hidden = None if vectors is None else np.asarray(vectors, np.float32)
    return make_step(index, run, requests, rollouts, scores, advantages.ravel(), hidden, first_row=0)


class Lived:
    """A transform that lives through several steps."""

    def __init__(self, transform: Transform, run: RunInfo | None = None):
        self.transform, self.state = transform, transform.init(run or run_info())

    def __call__(self, step: Step, values: np.ndarray | None = None) -> np.ndarray:
        start = np.full(step.correct.shape, np.nan) if values is None else np.asarray(values, np.float64)
        values, self.state, self.report = self.transform.update(step, start, self.state)
        return values
