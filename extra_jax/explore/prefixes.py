"""Prefix regeneration: prompts that keep failing come back with the beginning of one of the model's own attempts.

    a graded step -> hard? -> source -> cut -> score -> choose -> queue          (``observe``)
    queue -> a few of the next step's prompts, in the place of plain ones        (``prompts``)

A prefix made in step ``s`` is used in ``s + 1`` at the earliest. Every process holds the same state: each cuts its own
completions, and all choose from what all of them offered.

Source: ``docs/methods/extra.md``, "Prefix regeneration", "Success and failure prefixes".
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from extra_jax.config.loading import validated
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.explore import prefix_report
from extra_jax.explore.attempts import (
    CHOOSERS,
    Choosing,
    Prefix,
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
from extra_jax.explore.keyed import keyed_rng, keyed_uniform
from extra_jax.explore.prefix_settings import PrefixSettings
from extra_jax.explore.prefix_state import GUIDED_MARK, POSITION_BINS, Guided, Kind, Offer, PrefixState
from extra_jax.explore.step import Step
from extra_jax.parallel.processes import gather_objects

_LEVEL_RATE = 0.2  # of the length controller: change of the fraction for a pass rate that is off by 1
_LEVELS = (0.05, 0.95)


@PROMPTS.register("prefixes")
def prefixes(**settings: Any) -> PromptPolicy:
    """Prompts with prefixes of the model's own attempts.

    Args:
        settings: those of ``PrefixSettings``, by name.

    Raises:
        ExtraError: a setting that does not exist (the nearest is named) or has no meaning.
    """
    chosen = validated(PrefixSettings, settings, "explore.prompts.prefixes")
    if isinstance(chosen.chooser, str):
        CHOOSERS.get(chosen.chooser)  # a name that does not exist is found now, not after the warm-up

    def init(run: RunInfo) -> PrefixState:
        if int(chosen.guided_fraction * run.prompts_per_step) < 1:
            raise ExtraError(
                f"explore.prompts.prefixes.guided_fraction={chosen.guided_fraction:g} of train.prompts_per_step="
                f"{run.prompts_per_step} is less than one prompt; raise it to {1 / run.prompts_per_step:g} or more"
            )
        return PrefixState()

    return PromptPolicy(
        init=init,
        prompts=lambda draw, state, step: next_prompts(draw, state, step, chosen),
        observe=lambda step, state: observe(step, state, chosen),
        save=PrefixState.save,
        load=lambda tree, run: PrefixState.load(tree),
    )


# ---- before a step: out of the queue ---------------------------------------------------------------------------------


def next_prompts(
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


def observe(step: Step, state: PrefixState, settings: PrefixSettings) -> tuple[PrefixState, Report]:
    report: dict[str, Any] = {**prefix_report.outcomes(step), **prefix_report.visits(step, state)}
    _steer(state, settings, step)
    kinds = {index: kind for index in range(len(step.requests)) if (kind := _visit(step, state, settings, index))}
    report |= prefix_report.hard_prompts(step, kinds)
    warmup = step.run.max_steps // 10 if settings.warmup_steps is None else settings.warmup_steps
    if step.index + 1 > warmup:
        offers = gather_objects(_offers(step, settings, kinds))
        queued = enqueue(step, state, settings, kinds, offers)
        report |= prefix_report.offers(offers, queued)
    return state, report | prefix_report.waiting(state, settings.chooser != "lowest_entropy")


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


def _attempts(step: Step, settings: PrefixSettings, kinds: dict[int, Kind]) -> list[tuple[int, int | None]]:
    """Prompt and completion of each attempt of this process that is cut; no completion where none qualifies.

    With success or failure prefixes every plain prompt is cut: what helps when it fails is how it was passed before.
    """
    first, count = step.first_row // step.run.group_size, len(step.rollouts) // step.run.group_size
    attempts: list[tuple[int, int | None]] = []
    for index in range(first, first + count):
        plain, sources = step.requests[index].lineage is None, list[Source]()
        if kinds.get(index) == "hard" or (settings.source == "correct" and plain):
            sources.append(settings.source)
        if settings.failures and plain:
            sources.append("wrong")
        rows = [source_rollout(step.entropies[index], step.correct[index], source) for source in sources]
        attempts += [(index, row) for row in dict.fromkeys(rows)]
    return attempts


def _offers(step: Step, settings: PrefixSettings, kinds: dict[int, Kind]) -> list[Offer]:
    """What this process offers."""
    table = newline_table(step.run.tokenizer, settings.cut)
    offers, texts = [], []
    for index, row in _attempts(step, settings, kinds):
        cut = [] if row is None else _cut(step, settings, index, row, table)
        offers.append(Offer(index, cut))
        before = len(step.requests[index].prefix_ids)
        texts += [step.run.tokenizer.decode(prefix.tokens[before:].tolist()) for prefix in cut]
    if settings.averaging != "embedding" or not texts:
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
    cuts = [cut for cut in settings.lengths(ids, table) if before + cut <= room]
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
        if not any(stop in text for stop in settings.stop_at)
    ]


def memory_key(request: PromptRequest, max_depth: int | None) -> str:
    """Where prefixes are remembered: with the root problem; without a depth limit, with the guided prompt."""
    if request.lineage is None or max_depth is not None:
        return request.problem.uid
    return f"{request.problem.uid}{GUIDED_MARK}{','.join(map(str, request.prefix_ids))}"


def enqueue(
    step: Step, state: PrefixState, settings: PrefixSettings, kinds: dict[int, Kind], offers: Sequence[Offer]
) -> list[Guided]:
    """Remembers what all processes offered, chooses one prefix of each prompt that shall come back (``kinds``, by
    index), and queues it."""
    queued: list[Guided] = []
    turns = [offer.index for offer in offers if offer.prefixes]
    if settings.by_success:  # the attempt that is needed may be an old one, whatever was offered in this step
        turns = list(kinds)
        for offer in offers:
            _remember(step, state, settings, offer)
    offered = {offer.index: offer for offer in offers}
    for index in turns:
        if not settings.by_success:
            _remember(step, state, settings, offered[index])
        entry = _chosen(step, state, settings, index, kinds[index], offers)
        if entry is not None and (settings.max_depth is None or entry.prefix.depth <= settings.max_depth):
            _queue(entry, state, settings)
            queued.append(entry)
    for record in state.records.values():
        record.prefixes = _fresh(record.prefixes, settings, step.index)
    return queued


def _chosen(
    step: Step, state: PrefixState, settings: PrefixSettings, index: int, kind: Kind, offers: Sequence[Offer]
) -> Guided | None:
    """The prefix with which prompt ``index`` comes back, if any."""
    problem = step.requests[index].problem
    key = memory_key(step.requests[index], settings.max_depth)
    pool = state.record(key).prefixes
    if kind == "easy" or settings.source == "correct":
        pool = [prefix for prefix in pool if prefix.correct == (kind == "hard")]
    if not pool:
        return None
    others = [p for o in offers if step.requests[o.index].problem.uid != problem.uid for p in o.prefixes]
    rng = keyed_rng("choose", step.run.seed, step.index, key)
    scores = smoothed_scores(pool, settings.averaging, settings.tau)
    best = lowest(scores, settings.as_released, rng)  # whatever the chooser does: others are held against it
    state.positions[min(int(pool[best].fraction * POSITION_BINS), POSITION_BINS - 1)] += 1
    chooser = CHOOSERS.get(settings.chooser) if isinstance(settings.chooser, str) else settings.chooser
    level, first_tie = state.levels[kind], settings.as_released
    among = Choosing(problem.uid, pool, others, scores, level, state.positions, first_tie, rng, best)
    prefix, score = chooser(among)
    if prefix is None:
        return None
    return Guided(problem.uid, problem.answer, replace(prefix, vector=None), score, step.index, kind)


def _remember(step: Step, state: PrefixState, settings: PrefixSettings, offer: Offer) -> None:
    """Adds prefixes to the memory of a prompt."""
    record = state.record(memory_key(step.requests[offer.index], settings.max_depth))
    kept = _fresh(record.prefixes, settings, step.index)
    record.prefixes = (kept + offer.prefixes)[-settings.memory_capacity :]


def _fresh(prefixes: list[Prefix], settings: PrefixSettings, step: int) -> list[Prefix]:
    """Those that are not forgotten yet."""
    age = settings.memory_max_age
    return prefixes if age is None else [prefix for prefix in prefixes if step - prefix.step < age]


def _queue(entry: Guided, state: PrefixState, settings: PrefixSettings) -> None:
    """Appends an entry; a newer one replaces the waiting one of its prompt, and the oldest leave a full queue."""
    if not settings.as_released:
        state.queue = [other for other in state.queue if other.uid != entry.uid]
    state.queue = [*state.queue, entry][-settings.queue_capacity :]
    state.record(entry.uid).waiting = "eligible"
