"""Prefix regeneration: prompts that keep failing come back with the beginning of one of the model's own attempts.

    a graded step -> hard? -> source -> cut -> score -> choose -> queue          (``observe``)
    queue -> a few of the next step's prompts, in the place of plain ones        (``prompts``)

A prefix made in step ``s`` is used in ``s + 1`` at the earliest. Every process holds the same state: each cuts its own
completions, and all choose from what all of them offered.

Source: ``docs/extra.md``, "Prefix regeneration", "Success and failure prefixes".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.explore import prefix_report
from extra_jax.explore.attempts import (
    CHOOSERS,
    Choosing,
    Cut,
    CutRules,
    Prefix,
    Smoothing,
    Source,
    leaks,
    lowest,
    newline_table,
    prefix_scores,
    smoothed_scores,
    source_rollout,
)
from extra_jax.explore.door import PROMPTS, Draw, PromptPolicy, PromptStep, Report, RunInfo
from extra_jax.explore.encoders import make_encoder
from extra_jax.explore.exchange import gather_lists
from extra_jax.explore.keyed import keyed_rng, keyed_uniform
from extra_jax.explore.prefix_state import (
    GUIDED_MARK,
    POSITION_BINS,
    Guided,
    Kind,
    PrefixState,
    PromptRecord,
    without_vector,
)
from extra_jax.explore.step import Step

_LEVEL_RATE = 0.2  # of the length controller: change of the fraction for a pass rate that is off by 1
_LEVELS = (0.05, 0.95)


@dataclass(frozen=True)
class PrefixSettings:
    """Attributes are the arguments of ``prefixes``."""

    guided_fraction: float
    hard_max_correct: int
    max_truncated: float | None
    warmup_steps: int | None
    source: Source
    failures: bool
    cuts: CutRules
    smoothing: Smoothing
    tau: float
    choose: str | Callable[..., Any]
    target_pass_rate: float
    memory_capacity: int
    memory_max_age: int | None
    queue_capacity: int
    queue_max_age: int | None
    budget: Literal["same_total", "full"]
    max_depth: int | None
    as_released: bool


@PROMPTS.register("prefixes")
def prefixes(
    guided_fraction: float = 1 / 32,
    *,
    hard_max_correct: int = 1,
    max_truncated: float | None = 0.5,
    warmup_steps: int | None = None,
    source: Source = "prefer_correct",
    failures: bool = False,
    cut: Cut = "contains_newline",
    every: int = 64,
    min_gap: int = 32,
    max_cuts: int = 15,
    min_tokens: int = 32,
    max_fraction: float | None = 0.7,
    stop_at: Sequence[str] = ("\\boxed",),
    smoothing: Smoothing = "embedding",
    tau: float = 0.1,
    choose: str | Callable[..., Any] | None = None,
    target_pass_rate: float = 0.5,
    memory_capacity: int = 128,
    memory_max_age: int | None = 50,
    queue_capacity: int = 512,
    queue_max_age: int | None = 8,
    budget: Literal["same_total", "full"] = "same_total",
    max_depth: int | None = 1,
    as_released: bool = False,
) -> PromptPolicy:
    """Prompts with prefixes of the model's own attempts.

    Args:
        guided_fraction: share of a step's prompts that may be given to guided ones.
        hard_max_correct: a prompt is hard with at most so many correct completions, and easy with at most so many
            wrong ones.
        max_truncated: a group with this share cut at the length cap is not hard, only long; ``None``: no limit.
        warmup_steps: no prefix before; default: a tenth of the run.
        source: which attempt of a hard prompt is cut, always the one of lowest mean token entropy among the correct
            ones where there are any, among all (as released), or with ``correct`` only a correct one, of this visit
            or of an earlier one: **success prefixes**.
        failures: prompts that mostly pass come back with the beginning of a wrong attempt: **failure prefixes**.
        cut, every, min_gap, max_cuts, min_tokens, max_fraction, stop_at: where attempts are cut (``CutRules``).
        smoothing, tau: how scores are averaged over similar prefixes (``smoothed_scores``).
        choose: ``lowest_entropy``, ``length``, or a function of one's own (``attempts.Choosing``). Default: ``length``
            for success and failure prefixes, else the lowest entropy.
        target_pass_rate: where ``length`` steers the pass rate of guided groups. At one half they say most.
        memory_capacity, memory_max_age: prefixes that are remembered of a prompt, and steps.
        queue_capacity, queue_max_age: prompts that wait, and steps after which one is dropped; the oldest leave.
        budget: room for a continuation: what the prefix leaves of a completion, or a whole completion's.
        max_depth: prefixes of prefixes; ``None``: without end, as released.
        as_released: first in first out into the last rows, early cuts, the first of equal scores, no return of
            displaced prompts, several waiting prefixes of a prompt.
    """
    by_success = source == "correct" or failures
    if source == "wrong":
        raise ExtraError("explore.prompts.prefixes.source=wrong: use failures=true, for prompts that mostly pass")
    if not 0 < guided_fraction < 1:
        raise ExtraError(f"explore.prompts.prefixes.guided_fraction={guided_fraction}: give a number between 0 and 1")
    rules = CutRules("as_released" if as_released else cut, every, min_gap, max_cuts, min_tokens, max_fraction,
                     tuple(stop_at))  # fmt: skip
    settings = PrefixSettings(
        guided_fraction, hard_max_correct, max_truncated, warmup_steps, source, failures, rules, smoothing, tau,
        choose or ("length" if by_success else "lowest_entropy"), target_pass_rate, memory_capacity, memory_max_age,
        queue_capacity, queue_max_age, budget, max_depth, as_released,
    )  # fmt: skip

    def init(run: RunInfo) -> PrefixState:
        if int(guided_fraction * run.prompts_per_step) < 1:
            raise ExtraError(
                f"explore.prompts.prefixes.guided_fraction={guided_fraction:g} of train.prompts_per_step="
                f"{run.prompts_per_step} is less than one prompt; raise it to {1 / run.prompts_per_step:g} or more"
            )
        return PrefixState()

    return PromptPolicy(
        init=init,
        prompts=lambda draw, state, step: _prompts(draw, state, step, settings),
        observe=lambda step, state: _observe(step, state, settings),
        save=PrefixState.save,
        load=lambda tree, run: PrefixState.load(tree),
    )


# ---- before a step: out of the queue ---------------------------------------------------------------------------------


def _prompts(
    draw: Draw, state: PrefixState, step: PromptStep, settings: PrefixSettings
) -> tuple[list[PromptRequest], PrefixState]:
    """``step.count`` prompts. Problems that a guided prompt displaced come first, so that none of an epoch is lost."""
    problems = step.run.problems
    requests = [PromptRequest(problems[uid]) for uid in state.pending[: step.count]]
    state.pending = state.pending[step.count :]
    if len(requests) < step.count:
        requests += draw(step.count - len(requests))
    entries = take(state, settings, int(settings.guided_fraction * step.count), step)
    if settings.as_released:
        rows = np.arange(step.count - len(entries), step.count)
    else:
        rng = keyed_rng("slots", step.run.seed, step.index)
        rows = np.sort(rng.choice(step.count, len(entries), replace=False))
    displaced = [requests[row].problem.uid for row in rows]
    for row, entry in zip(rows.tolist(), entries, strict=True):
        requests[row] = guided_prompt(problems[entry.uid], entry, settings.budget == "full", step.index)
    if not settings.as_released:
        state.pending = displaced + state.pending
    return requests, state


def guided_prompt(root: Problem, entry: Guided, in_prompt: bool, step: int) -> PromptRequest:
    """A prompt with the prefix of ``entry``; its completions are graded against the root problem.

    Raises:
        ExtraError: the root problem has another answer than when the prefix was made.
    """
    if root.answer != entry.answer:
        raise ExtraError(
            f"step {step}: problem {entry.uid!r} has the answer {root.answer!r}, its prefix was made for "
            f"{entry.answer!r}. The data set has changed; start a new run"
        )
    return PromptRequest(root, tuple(entry.prefix.tokens.tolist()), prefix_in_prompt=in_prompt, lineage=entry)


def take(state: PrefixState, settings: PrefixSettings, count: int, step: PromptStep) -> list[Guided]:
    """Takes up to ``count`` entries out of the queue, after those that have waited too long were dropped.

    Each entry has a random number of its own, so that the draw does not depend on the order of the queue. It is also
    an experiment: ``transfer_*`` compares the prompts that were drawn with those that were not.
    """
    age = settings.queue_max_age
    state.queue = [entry for entry in state.queue if age is None or step.index - entry.born <= age]
    order = list(range(len(state.queue)))
    if not settings.as_released:
        seed = step.run.seed
        keys = [keyed_uniform("draw", seed, step.index, e.uid, e.born, e.prefix.rollout_id) for e in state.queue]
        order.sort(key=keys.__getitem__)
    taken = sorted(order[:count])
    entries = [state.queue[index] for index in taken]
    state.queue = [entry for index, entry in enumerate(state.queue) if index not in set(taken)]
    for entry in entries:
        record = state.record(entry.uid)
        record.waiting = "drawn"
        record.injected += 1
    return entries


# ---- after a step: into the queue ------------------------------------------------------------------------------------


class Offer(NamedTuple):
    """The prefixes that one prompt of a step offers; none where no attempt qualified or no cut was found.

    Attributes:
        index: of the prompt in the step.
        prefixes: shortest first.
    """

    index: int
    prefixes: list[Prefix]


def _observe(step: Step, state: PrefixState, settings: PrefixSettings) -> tuple[PrefixState, Report]:
    report: dict[str, Any] = {**prefix_report.outcomes(step), **prefix_report.visits(step, state)}
    _steer(state, settings, step)
    kinds = {index: kind for index in range(len(step.requests)) if (kind := _visit(step, state, settings, index))}
    report |= prefix_report.hard_prompts(step, kinds)
    warmup = step.run.max_steps // 10 if settings.warmup_steps is None else settings.warmup_steps
    if step.index + 1 > warmup:
        offers = gather_lists(_offers(step, settings, kinds))
        queued = _enqueue(step, state, settings, kinds, offers)
        report |= prefix_report.offers(offers, queued)
    return state, report | prefix_report.waiting(step, state)


def _steer(state: PrefixState, settings: PrefixSettings, step: Step) -> None:
    """The length controller: a longer success prefix is passed more often, a longer failure prefix less often."""
    rates = step.correct.mean(axis=1)
    for kind, sign in (("hard", 1.0), ("easy", -1.0)):
        own = [r for r, request in zip(rates, step.requests, strict=True) if _kind(request) == kind]
        if own:
            level = state.levels[kind] + sign * _LEVEL_RATE * (settings.target_pass_rate - float(np.mean(own)))
            state.levels[kind] = float(np.clip(level, *_LEVELS))


def _kind(request: PromptRequest) -> Kind | None:
    return request.lineage.kind if isinstance(request.lineage, Guided) else None


def _visit(step: Step, state: PrefixState, settings: PrefixSettings, index: int) -> Kind | None:
    """Writes a visit down; whether the prompt shall come back, as a hard or as an easy one."""
    request, group = step.requests[index], step.correct[index]
    correct, size = int(group.sum()), len(group)
    unknown = int((~step.valid[index] & ~group).sum())  # a completion that was not graded may have been correct
    long = settings.max_truncated is not None and step.truncated[index].sum() >= settings.max_truncated * size
    hard = not long and correct + unknown <= settings.hard_max_correct
    record = state.record(request.problem.uid)
    if request.lineage is None:
        record.visits += 1
        record.waiting, record.hard = "", hard
    if settings.max_depth is not None and _depth(request) >= settings.max_depth:
        return None
    if hard:
        return "hard"
    easy = settings.failures and size - correct <= settings.hard_max_correct and not unknown
    return "easy" if easy and request.lineage is None else None


def _depth(request: PromptRequest) -> int:
    return request.lineage.prefix.depth if isinstance(request.lineage, Guided) else 0


def _offers(step: Step, settings: PrefixSettings, kinds: dict[int, Kind]) -> list[Offer]:
    """Cuts attempts of this process. With success or failure prefixes every plain prompt is cut, because the attempt
    that is needed when it fails is one that it passed with."""
    size = step.run.group_size
    first = step.first_row // size
    local = range(first, first + len(step.rollouts) // size)
    table = newline_table(step.run.tokenizer, settings.cuts.rule)
    chosen: list[tuple[int, Source]] = []
    for index in local:
        plain = step.requests[index].lineage is None
        if settings.source == "correct":
            chosen += [(index, "correct")] if plain or index in kinds else []
        elif kinds.get(index) == "hard":
            chosen.append((index, settings.source))
        if settings.failures and plain:
            chosen.append((index, "wrong"))
    offers, texts = [], []
    for index, source in chosen:
        row = source_rollout(step.entropies[index], step.correct[index], source)
        cut = [] if row is None else _cut(step, settings, index, row, table)
        offers.append(Offer(index, cut))
        before = len(step.requests[index].prefix_ids)
        texts += [step.run.tokenizer.decode(prefix.tokens[before:].tolist()) for prefix in cut]
    if settings.smoothing != "embedding" or settings.choose == "length" or not texts:
        return offers
    encoder = make_encoder(step.run.encoder)
    if encoder is None:
        raise ExtraError(
            "explore.encoder.name=policy_hidden has no vectors of prefixes: set "
            "explore.prompts.prefixes.smoothing=prefix_overlap"
        )
    vectors = iter(encoder.encode(texts))
    return [Offer(o.index, [replace(prefix, vector=next(vectors)) for prefix in o.prefixes]) for o in offers]


def _cut(step: Step, settings: PrefixSettings, index: int, row: int, table: np.ndarray) -> list[Prefix]:
    """The prefixes that completion ``row`` of prompt ``index`` offers; behind a prefix, they begin with it."""
    request, rollouts, run = step.requests[index], step.rollouts, step.run
    local = index * run.group_size + row - step.first_row
    ids, before = rollouts.completion_ids(local), len(request.prefix_ids)
    whole = np.concatenate([np.array(request.prefix_ids, np.int32), ids]).astype(np.int32)
    room = run.max_completion_length - 1  # a completion needs one token more
    if settings.budget == "full":
        room = run.max_prompt_length - len(run.prompt_ids[request.problem.uid])
    cuts = [cut for cut in settings.cuts.lengths(ids, table) if before + cut <= room]
    scores = prefix_scores(rollouts.entropies[local, : len(ids)], cuts)
    texts = [run.tokenizer.decode(whole[: before + cut].tolist()) for cut in cuts]
    return [
        Prefix(
            tokens=whole[: before + cut],
            score=float(score),
            vector=None,
            step=step.index,
            rollout_id=int(step.rollout_ids[index, row]),
            depth=1 + _depth(request),
            fraction=cut / len(ids),
            correct=bool(step.correct[index, row]),
            leak=leaks(text, request.problem.answer),
        )
        for cut, score, text in zip(cuts, scores, texts, strict=True)
        if not any(stop in text for stop in settings.cuts.stop_at)
    ]


def memory_key(request: PromptRequest, max_depth: int | None) -> str:
    """Where prefixes are remembered: with the root problem; without a depth limit, with the guided prompt."""
    if request.lineage is None or max_depth is not None:
        return request.problem.uid
    return f"{request.problem.uid}{GUIDED_MARK}{','.join(map(str, request.prefix_ids))}"


def _enqueue(
    step: Step, state: PrefixState, settings: PrefixSettings, kinds: dict[int, Kind], offers: Sequence[Offer]
) -> list[Guided]:
    """Remembers what was offered, chooses one prefix of each prompt that shall come back, and queues it."""
    chooser = CHOOSERS.get(settings.choose) if isinstance(settings.choose, str) else settings.choose
    queued: list[Guided] = []
    by_success = settings.source == "correct" or settings.failures
    turns = [offer.index for offer in offers if offer.prefixes]
    if by_success:  # the attempt that is needed may be an old one, so the prompt need not have offered anything
        for offer in offers:
            _remember(step, state, settings, offer)
        turns = list(kinds)
    offered = {offer.index: offer for offer in offers}
    for index in turns:
        request, kind = step.requests[index], kinds[index]
        key = memory_key(request, settings.max_depth)
        pool = state.record(key).prefixes if by_success else _remember(step, state, settings, offered[index])
        if by_success:
            pool = [prefix for prefix in pool if prefix.correct == (kind == "hard")]
        if not pool:
            continue
        others = [p for o in offers if step.requests[o.index].problem.uid != request.problem.uid for p in o.prefixes]
        rng = keyed_rng("choose", step.run.seed, step.index, key)
        smoothing = "none" if settings.choose == "length" else settings.smoothing
        scores = smoothed_scores(pool, smoothing, settings.tau)
        best = lowest(scores, settings.as_released, rng)  # whatever the chooser does: others are held against it
        state.positions[min(int(pool[best].fraction * POSITION_BINS), POSITION_BINS - 1)] += 1
        level, positions, first_tie = state.levels[kind], state.positions, settings.as_released
        among = Choosing(request.problem.uid, pool, others, scores, level, positions, first_tie, rng, best)
        prefix, score = chooser(among)
        if prefix is not None:
            entry = Guided(request.problem.uid, request.problem.answer, without_vector(prefix), score, step.index, kind)
            queued += _queue(entry, state, settings)
    if settings.memory_max_age is not None:
        for record in state.records.values():
            record.prefixes = [p for p in record.prefixes if step.index - p.step < settings.memory_max_age]
    return queued


def _remember(step: Step, state: PrefixState, settings: PrefixSettings, offer: Offer) -> list[Prefix]:
    """Adds prefixes to the memory of a prompt and returns what it holds now."""
    record: PromptRecord = state.record(memory_key(step.requests[offer.index], settings.max_depth))
    kept = record.prefixes
    if settings.memory_max_age is not None:
        kept = [prefix for prefix in kept if step.index - prefix.step < settings.memory_max_age]
    record.prefixes = (kept + offer.prefixes)[-settings.memory_capacity :]
    return record.prefixes


def _queue(entry: Guided, state: PrefixState, settings: PrefixSettings) -> list[Guided]:
    """Appends an entry; a newer one replaces the waiting one of its prompt, and the oldest leave a full queue."""
    if settings.max_depth is not None and entry.prefix.depth > settings.max_depth:
        return []
    if not settings.as_released:
        state.queue = [other for other in state.queue if other.uid != entry.uid]
    state.queue = [*state.queue, entry][-settings.queue_capacity :]
    state.record(entry.uid).waiting = "eligible"
    return [entry]
