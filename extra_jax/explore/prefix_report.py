"""What prefix regeneration says about a step. Names that the authors' release logs are kept: ``hard_prompt_count``,
``guided_queue_size``, ``guided_injected``. A mean over nothing is NaN, which is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from extra_jax.explore.door import mean
from extra_jax.explore.prefix_state import Guided, Offer, PrefixState
from extra_jax.explore.step import Step


def outcomes(step: Step) -> dict[str, Any]:
    """Pass rates of plain and guided prompts apart, and the lineage of each completion as columns."""
    rate, guided = step.correct.mean(axis=1), step.guided
    entries = [request.lineage for request in step.requests]
    own = [entry for entry in entries if isinstance(entry, Guided)]
    report: dict[str, Any] = {
        "regular_pass_rate": mean(rate[~guided]),
        "guided_injected": len(own),
        "guided_pass_rate": mean(rate[guided]),
        "guided_frac_mixed": mean((rate[guided] > 0.0) & (rate[guided] < 1.0)),
        "guided_source_correct": mean([e.prefix.correct for e in own]),
        "guided_leak_share": mean([e.prefix.leak for e in own]),
    }
    for kind in ("hard", "easy"):
        chosen = [r for r, e in zip(rate, entries, strict=True) if isinstance(e, Guided) and e.kind == kind]
        report[f"guided_pass_rate_{kind}"] = mean(chosen)
    size = step.run.group_size

    def column(value: Any) -> list[Any]:
        return [value(e) if isinstance(e, Guided) else None for e in entries for _ in range(size)]

    return report | {
        "parent": column(lambda e: f"{e.prefix.step + 1}:{e.prefix.rollout_id}"),
        "prefix_ids": column(lambda e: e.prefix.tokens.tolist()),
        "prefix_fraction": column(lambda e: round(e.prefix.fraction, 4)),
        "prefix_score": column(lambda e: round(e.prefix.score, 6)),
    }


def visits(step: Step, state: PrefixState) -> dict[str, float]:
    """What became of prompts since their last visit; before this step's visits are written down.

    ``transfer_*`` compares, among prompts that were queued, those that were drawn with those that were not: with a
    random draw, a randomised experiment on what regeneration does for the plain prompt.
    """
    rates: dict[str, list[float]] = {"drawn": [], "eligible": []}
    again: list[bool] = []
    for request, group in zip(step.requests, step.correct, strict=True):
        record = state.records.get(request.problem.uid)
        if request.lineage is not None or record is None:
            continue
        if record.waiting:
            rates[record.waiting].append(float(group.mean()))
        if record.visits and record.hard:
            again.append(not group.any())
    return {
        "transfer_drawn": mean(rates["drawn"]),
        "transfer_drawn_count": len(rates["drawn"]),
        "transfer_not_drawn": mean(rates["eligible"]),
        "transfer_not_drawn_count": len(rates["eligible"]),
        "hard_again_share": mean(again),
    }


def hard_prompts(step: Step, kinds: Mapping[int, str]) -> dict[str, float]:
    """How often the trigger fires."""
    hard = [index for index, kind in kinds.items() if kind == "hard"]
    plain = [index for index in hard if step.requests[index].lineage is None]
    return {
        "hard_prompt_count": len(hard),
        "hard_prompt_share": len(plain) / max(int((~step.guided).sum()), 1),
        "easy_prompt_count": sum(kind == "easy" for kind in kinds.values()),
    }


def offers(offered: Sequence[Offer], queued: Sequence[Guided]) -> dict[str, float]:
    """Cuts and choices."""
    return {
        "candidates": mean([len(offer.prefixes) for offer in offered]),
        "prefix_fraction_used": mean([entry.prefix.fraction for entry in queued]),
        "queue_added": len(queued),
    }


def waiting(state: PrefixState, by_level: bool) -> dict[str, float]:
    """The queue after a step, and the length controller where prefixes are chosen by it."""
    return {
        "guided_queue_size": len(state.queue),
        "pending": len(state.pending),
        "prefix_level_hard": state.levels["hard"] if by_level else float("nan"),
        "prefix_level_easy": state.levels["easy"] if by_level else float("nan"),
    }
