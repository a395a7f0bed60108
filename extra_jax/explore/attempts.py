"""Prefixes of the model's own attempts: which attempt is cut, what a prefix is worth, and which is taken.

Source: ``docs/methods/extra.md``, "Prefix regeneration".
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from extra_jax.data.tokenizer import Tokenizer
from extra_jax.doors import Registry
from extra_jax.explore.prefix_settings import Cut, Smoothing

_TIE = 1e-9  # nats; scores this close are equal up to rounding
_EXACT_BELOW = 1000  # the release looks for further newline tokens among these ids only

Source = Literal["prefer_correct", "correct", "wrong", "lowest_entropy"]


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of an attempt, and what is known about it.

    Attributes:
        tokens: ``[b]`` int32, from the end of the root prompt on; prefixes of one attempt share memory.
        score: nats, the mean token entropy of its tokens.
        vector: ``[E]`` f32 of length 1, or ``None`` where nothing needs it.
        step: in which it was written.
        rollout_id: of the attempt, in that step.
        depth: 1 where it was written from the plain prompt, 2 from a guided one, ...
        fraction: position of the cut in the attempt, of its length.
        correct: whether the attempt was.
        leak: whether the text holds the ground truth already.
    """

    tokens: np.ndarray
    score: float
    vector: np.ndarray | None
    step: int
    rollout_id: int
    depth: int
    fraction: float
    correct: bool
    leak: bool


@lru_cache(maxsize=4)
def newline_table(tokenizer: Tokenizer, rule: Cut) -> np.ndarray:
    """``[V]`` bool; 1 marks a token behind which a completion may be cut. Computed once a tokenizer.

    Args:
        tokenizer: whose tokens are decoded one by one.
        rule: ``contains_newline``: the text of the token holds a newline. Byte-pair vocabularies merge it with what is
            before it (".\\n\\n", ":\\n"): Qwen's has 2,178 such tokens. ``double_newline``: it holds an empty line.
            ``as_released``: the tokens of "\\n" and "\\n\\n" and small ids that are one newline. ``every``: none.
    """
    table = np.zeros(tokenizer.vocab_size, bool)
    if rule == "as_released":
        table[tokenizer.encode("\n") + tokenizer.encode("\n\n")] = True
        below = min(_EXACT_BELOW, tokenizer.vocab_size)
        table[:below] |= [tokenizer.decode([token]) == "\n" for token in range(below)]
    elif rule != "every":
        wanted = {"contains_newline": "\n", "double_newline": "\n\n"}[rule]
        table[:] = [wanted in tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    return table


def source_rollout(entropies: np.ndarray, correct: np.ndarray, how: Source) -> int | None:
    """Which attempt of a group is cut: the one of lowest mean token entropy among those that qualify.

    Args:
        entropies: ``[G]`` mean token entropy of each whole attempt.
        correct: ``[G]`` bool.
        how: ``prefer_correct``: the correct ones where there are any; ``correct`` or ``wrong``: only those;
            ``lowest_entropy``: all.

    Returns:
        The index; ``None`` where nothing qualifies.
    """
    wanted = {"correct": correct, "wrong": ~correct, "lowest_entropy": np.ones_like(correct)}.get(how, correct)
    if not wanted.any():
        if how != "prefer_correct":
            return None
        wanted = np.ones_like(correct)
    return int(np.argmin(np.where(wanted, entropies, np.inf)))


def prefix_scores(entropies: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """``[len(cuts)]`` f64 nats: mean of the first ``cuts[i]`` token entropies ``[L]``, before it was drawn."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(entropies, np.float64))])
    ends = np.asarray(cuts, np.int64)
    return sums[ends] / ends


def smoothed_scores(prefixes: Sequence[Prefix], smoothing: Smoothing, tau: float) -> np.ndarray:
    """``[n]`` f64: ``sum_j softmax_j(similarity_ij / tau) score_j``, each prefix among its own neighbours.

    Similarity is the cosine of vectors, or with ``prefix_overlap`` the share of tokens that two begin with in common.
    """
    scores = np.array([prefix.score for prefix in prefixes], np.float64)
    if smoothing == "none":
        return scores
    if smoothing == "embedding":
        vectors = np.stack([prefix.vector for prefix in prefixes])  # type: ignore[misc]  # this smoothing encodes all
        similarities = (vectors @ vectors.T).astype(np.float64)
    else:
        similarities = _overlaps([prefix.tokens for prefix in prefixes])
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / tau)
    return weights @ scores / weights.sum(axis=1)


def _overlaps(rows: Sequence[np.ndarray]) -> np.ndarray:
    """``[n, n]`` f64: tokens that two prefixes begin with in common, over the length of the longer one."""
    lengths = np.array([len(tokens) for tokens in rows])
    padded = np.full((len(rows), lengths.max()), -1, np.int64)
    for row, tokens in enumerate(rows):
        padded[row, : len(tokens)] = tokens
    shared = np.zeros((len(rows), len(rows)))
    for row in range(len(rows)):
        equal = (padded == padded[row]) & (padded >= 0)
        shared[row] = np.logical_and.accumulate(equal, axis=1).sum(axis=1)
    return shared / np.maximum(lengths[:, None], lengths[None, :])


class Choosing(NamedTuple):
    """What a prefix is chosen from.

    Attributes:
        uid: of the problem.
        pool: its remembered prefixes that qualify, at least one.
        others: prefixes that other problems offered in this step.
        scores: ``[n]`` smoothed scores of the pool, low is good.
        level: the fraction of an attempt that the length controller asks for.
        positions: ``[20]`` how often the lowest score lay in each twentieth of its attempt.
        first_tie: whether the first of equal scores wins (as released), or one by lot.
        rng: of this problem in this step.
        best: index of the lowest score, of equal ones as ``first_tie`` says.
    """

    uid: str
    pool: list[Prefix]
    others: list[Prefix]
    scores: np.ndarray
    level: float
    positions: np.ndarray
    first_tie: bool
    rng: np.random.Generator
    best: int


Chooser = Callable[[Choosing], tuple[Prefix | None, float]]
"""The prefix, or ``None`` for none, and the score that it was chosen by."""

CHOOSERS: Registry[Chooser] = Registry("chooser of prefixes", "explore.prompts.prefixes.choose")


def lowest(costs: np.ndarray, first_tie: bool, rng: np.random.Generator) -> int:
    """Index of the lowest cost; of those that are equal up to rounding the first, or one by lot."""
    best = np.flatnonzero(costs <= costs.min() + _TIE)
    return int(best[0] if first_tie or len(best) == 1 else rng.choice(best))


@CHOOSERS.register("lowest_entropy")
def lowest_entropy(among: Choosing) -> tuple[Prefix | None, float]:
    """ExTra's choice: the lowest smoothed score."""
    index = lowest(among.scores, among.first_tie, among.rng)
    return among.pool[index], float(among.scores[index])


@CHOOSERS.register("length")
def by_length(among: Choosing) -> tuple[Prefix | None, float]:
    """The prefix whose share of its attempt is nearest to what the length controller asks for."""
    costs = np.array([abs(prefix.fraction - among.level) for prefix in among.pool])
    index = lowest(costs, among.first_tie, among.rng)
    return among.pool[index], float(among.scores[index])


def leaks(text: str, answer: str) -> bool:
    """Whether a text holds the ground truth already, as a whole word or number."""
    return bool(answer) and re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", text) is not None
