"""From failed groups to the queue: hard prompts, the prefixes they offer, and which one is chosen (a.4, b.3).

``propose`` looks at the groups of this process and needs their tokens; ``enqueue`` runs everywhere alike on what all of
them proposed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from extra_jax.config import PrefixConfig
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.explore.cuts import before_stop, cut_lengths, newline_table
from extra_jax.explore.injection import Slot
from extra_jax.explore.keyed import keyed_rng
from extra_jax.explore.prefix import Choice, Prefix, choose, prefix_scores, smoothed_scores, source_rollout
from extra_jax.explore.state import GUIDED_MARK, POSITION_BINS, ExplorationState, Guided, PromptState, without_vector
from extra_jax.rollout.types import Rollouts

_DECAY = 0.8  # of earlier visits in the running pass rate


class Group(NamedTuple):
    """What became of one slot: counts of its completions."""

    size: int
    correct: int
    unknown: int
    truncated: int


@dataclass(frozen=True)
class Proposal:
    """The prefixes that one hard prompt of this step offers; none where no cut, or nothing to cut, was found.

    Attributes:
        slot: index in the whole step.
        prefixes: shortest first.
    """

    slot: int
    prefixes: list[Prefix]


@dataclass
class Decisions:
    """What ``enqueue`` did, for the metrics.

    Attributes:
        queued: entries that joined the queue.
        real: per prompt with candidates, the real choice (``index``, scores), whatever the arm.
        used: what the arm took instead, or the same; ``None`` where it had nothing to take.
        pools: the prefixes that were chosen among.
        raw: index of the best score without smoothing.
        replaced: waiting entries that a newer one of the same prompt replaced.
        evicted: entries that fell out of a full queue.
    """

    queued: list[Guided] = field(default_factory=list)
    real: list[Choice] = field(default_factory=list)
    used: list[Prefix | None] = field(default_factory=list)
    pools: list[list[Prefix]] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)
    replaced: int = 0
    evicted: int = 0


def memory_key(slot: Slot, config: PrefixConfig) -> str:
    """Where a slot's prefixes are remembered: with its root problem; without a depth limit, with the guided prompt."""
    if slot.guided is None or config.max_depth is not None:
        return slot.problem.uid
    return f"{slot.problem.uid}{GUIDED_MARK}{','.join(map(str, slot.prefix_ids))}"


def visit(prompt: PromptState, group: Group) -> None:
    """Updates the record of a problem with a plain group."""
    prompt.visits += 1
    prompt.successes = _DECAY * prompt.successes + group.correct
    prompt.trials = _DECAY * prompt.trials + group.size - group.unknown
    prompt.streak = 0 if group.correct else prompt.streak + 1


def is_hard(prompt: PromptState, group: Group, config: PrefixConfig) -> bool:
    """Whether a prompt needs help, after ``visit``. A completion that could not be graded may have been correct."""
    if config.max_truncated is not None and group.truncated >= config.max_truncated * group.size:
        return False
    if config.hard_rule == "count":
        return group.correct + group.unknown <= config.hard_max_correct
    if config.hard_rule == "streak":
        return prompt.streak >= config.hard_streak and not group.unknown
    return (0.5 + prompt.successes) / (1.0 + prompt.trials) <= config.hard_pass_rate


def propose(
    slots: Mapping[int, Slot],
    rollouts: Rollouts,
    correct: np.ndarray,
    first: int,
    tokenizer: Tokenizer,
    encode: Callable[[Sequence[str]], np.ndarray] | None,
    config: PrefixConfig,
    *,
    room: Callable[[Slot], int],
    seed: int,
    step: int,
) -> list[Proposal]:
    """Cuts one attempt of each hard slot of this process.

    Args:
        slots: the hard ones, by index in the whole step.
        rollouts: of this process.
        correct: ``[R]`` bool.
        first: index of this process's first slot in the whole step.
        tokenizer: of the policy.
        encode: texts to vectors, or ``None`` where nothing needs them.
        config: how.
        room: tokens that an injected prefix of a slot's problem may have.
        seed: of the run.
        step: of the run.
    """
    mask = rollouts.completion_mask
    means = np.sum(rollouts.entropies, axis=1, where=mask, dtype=np.float64) / np.maximum(rollouts.lengths, 1)
    table = np.zeros(1, bool) if config.cut == "every" else newline_table(tokenizer, config.cut)
    proposals, texts = [], []
    for index, slot in slots.items():
        rows = np.flatnonzero(rollouts.prompt_index == index - first)
        rng = keyed_rng("source", seed, step, memory_key(slot, config))
        source = source_rollout(means[rows], correct[rows], config.source, rng)
        if source is None:
            proposals.append(Proposal(index, []))
            continue
        row = int(rows[source])
        prefixes = _prefixes_of(row, slot, rollouts, bool(correct[row]), table, tokenizer, config, room(slot), step)
        proposals.append(Proposal(index, prefixes))
        texts += [tokenizer.decode(prefix.tokens[len(slot.prefix_ids) :].tolist()) for prefix in prefixes]
    if encode is None or not texts:
        return proposals
    vectors = iter(encode(texts))
    return [replace(p, prefixes=[replace(x, vector=next(vectors)) for x in p.prefixes]) for p in proposals]


def _prefixes_of(
    row: int,
    slot: Slot,
    rollouts: Rollouts,
    correct: bool,
    table: np.ndarray,
    tokenizer: Tokenizer,
    config: PrefixConfig,
    room: int,
    step: int,
) -> list[Prefix]:
    """The prefixes that one attempt offers; behind a prefix, they begin with it."""
    ids, before = rollouts.completion_ids(row), len(slot.prefix_ids)
    whole = np.concatenate([np.array(slot.prefix_ids, np.int32), ids]).astype(np.int32)
    cuts = [cut for cut in cut_lengths(ids, table, config) if before + cut <= room]
    scores = prefix_scores(rollouts.entropies[row, : len(ids)], cuts, config)
    texts = [tokenizer.decode(whole[: before + cut].tolist()) for cut in cuts]
    return [
        Prefix(
            tokens=whole[: before + cut],
            score=float(score),
            vector=None,
            step=step,
            rollout_id=int(rollouts.rollout_ids[row]),
            depth=1 + (slot.guided.prefix.depth if slot.guided else 0),
            fraction=cut / len(ids),
            correct=correct,
            leak=leaks(text, slot.problem.answer),
        )
        for cut, score, text in zip(cuts, scores, texts, strict=True)
        if before_stop(text, config)
    ]


def leaks(text: str, answer: str) -> bool:
    """Whether a text holds the ground truth already, as a whole word or number."""
    return bool(answer) and re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", text) is not None


def enqueue(
    proposals: Sequence[Proposal],
    slots: Sequence[Slot],
    state: ExplorationState,
    config: PrefixConfig,
    *,
    real_smoothing: str,
    seed: int,
    step: int,
) -> Decisions:
    """Remembers what was proposed, chooses one prefix of each hard prompt, and queues it where prefixes are on.

    Args:
        proposals: of all processes, in slot order.
        slots: of the whole step.
        state: of exploration; changed.
        config: memory, choice and queue.
        real_smoothing: how scores are smoothed for the real choice, which is logged in every arm.
        seed: of the run.
        step: of the run.
    """
    done = Decisions()
    for proposal in proposals:
        if not proposal.prefixes:
            continue
        slot = slots[proposal.slot]
        pool = _remember(state.prompt(memory_key(slot, config)), proposal.prefixes, config, step)
        rng = keyed_rng("choose", seed, step, memory_key(slot, config))
        lengths = np.array([len(prefix.tokens) for prefix in pool])
        real = choose(smoothed_scores(pool, real_smoothing, config.tau), "low", config.tie, lengths, rng)
        state.positions[_bin(pool[real.index].fraction)] += 1
        used, score = _by_arm(proposal, proposals, slots, pool, real, lengths, state, config, rng)
        done.real.append(real)
        done.pools.append(pool)
        done.raw.append(int(np.argmin([prefix.score for prefix in pool])))
        done.used.append(used)
        if used is not None and config.enabled:
            entry = Guided(slot.problem.uid, slot.problem.answer, without_vector(used), score, step)
            _queue(entry, state, config, done)
    if config.memory_max_age is not None:
        for prompt in state.prompts.values():
            prompt.prefixes = [p for p in prompt.prefixes if step - p.step < config.memory_max_age]
    return done


def _remember(prompt: PromptState, prefixes: list[Prefix], config: PrefixConfig, step: int) -> list[Prefix]:
    """Adds prefixes to the memory of a prompt and returns what it holds now."""
    kept = prompt.prefixes
    if config.memory_max_age is not None:
        kept = [prefix for prefix in kept if step - prefix.step < config.memory_max_age]
    prompt.prefixes = (kept + prefixes)[-config.memory_capacity :]
    return prompt.prefixes


def _by_arm(
    proposal: Proposal,
    proposals: Sequence[Proposal],
    slots: Sequence[Slot],
    pool: list[Prefix],
    real: Choice,
    lengths: np.ndarray,
    state: ExplorationState,
    config: PrefixConfig,
    rng: np.random.Generator,
) -> tuple[Prefix | None, float]:
    """The prefix that the arm injects, and its (smoothed) score; the real choice where nothing is injected."""
    if not config.enabled:
        return pool[real.index], float(real.scores[real.index])
    if config.control == "none":
        made = choose(smoothed_scores(pool, config.smoothing, config.tau), config.direction, config.tie, lengths, rng)
        return pool[made.index], float(made.scores[made.index])
    if config.control == "wrong_problem":
        uid = slots[proposal.slot].problem.uid
        others = [x for p in proposals if slots[p.slot].problem.uid != uid for x in p.prefixes]
        other = others[rng.integers(len(others))] if others else None
        return other, float("nan") if other is None else other.score
    if config.control == "fresh":
        chosen = pool[real.index]
        return replace(chosen, tokens=chosen.tokens[:0]), float(real.scores[real.index])
    at_random = config.control == "random"
    index = int(rng.integers(len(pool))) if at_random else matched_position(pool, state.positions, rng)
    return pool[index], float(real.scores[index])


def matched_position(pool: Sequence[Prefix], positions: np.ndarray, rng: np.random.Generator) -> int:
    """The prefix nearest to a place drawn from where the real choices have been so far (c.1 P4).

    Args:
        pool: prefixes to choose from.
        positions: ``[20]`` counts of ``ExplorationState``; nothing is preferred where they are all 0.
        rng: of the prompt and step.
    """
    total = positions.sum()
    weights = positions / total if total else np.full(POSITION_BINS, 1.0 / POSITION_BINS)
    target = (rng.choice(POSITION_BINS, p=weights) + rng.random()) / POSITION_BINS
    return int(np.argmin([abs(prefix.fraction - target) for prefix in pool]))


def _queue(entry: Guided, state: ExplorationState, config: PrefixConfig, done: Decisions) -> None:
    if config.max_depth is not None and entry.prefix.depth > config.max_depth:
        return
    if config.one_per_prompt:
        before = len(state.queue)
        state.queue = [other for other in state.queue if other.uid != entry.uid]
        done.replaced += before - len(state.queue)
    state.queue.append(entry)
    done.evicted += max(0, len(state.queue) - config.queue_capacity)
    state.queue = state.queue[-config.queue_capacity :]
    state.prompt(entry.uid).waiting = "eligible"
    done.queued.append(entry)


def _bin(fraction: float) -> int:
    return min(int(fraction * POSITION_BINS), POSITION_BINS - 1)
