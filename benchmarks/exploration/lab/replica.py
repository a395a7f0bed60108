"""The defect of the authors' release that is worth measuring, and prefixes that are only talked about."""

from dataclasses import replace
from typing import Any

import numpy as np

from extra_jax.doors import call_with
from extra_jax.exploration import PromptRequest
from extra_jax.explore import PromptPolicy, PromptStep, Step, prefixes
from extra_jax.explore.door import Draw, Report
from extra_jax.explore.prefix_state import PrefixState


def graded_against_displaced(**settings: Any) -> PromptPolicy:
    """``prefixes(**settings)`` whose guided prompts are graded with the answer of the prompt that they displaced.

    Reports ``gt_check``, the share of guided prompts whose answer is their own all the same. Settings must have
    ``as_released=True``: then a prompt is drawn for every row, and a guided one displaces the one of its row.
    """
    inner = call_with(prefixes, settings, "explore.prompts of the laboratory")

    def prompts(draw: Draw, state: PrefixState, step: PromptStep) -> tuple[list[PromptRequest], PrefixState]:
        drawn: list[PromptRequest] = []

        def noted(count: int) -> list[PromptRequest]:
            drawn.extend(draw(count))
            return list(drawn)

        requests, state = inner.prompts(noted, state, step)
        return [_graded_as(own, row) for own, row in zip(requests, drawn, strict=True)], state

    def observe(step: Step, state: PrefixState) -> tuple[PrefixState, Report]:
        roots = [replace(request, problem=step.run.problems[request.problem.uid]) for request in step.requests]
        same = [
            asked.problem.answer == root.problem.answer
            for asked, root in zip(step.requests, roots, strict=True)
            if root.lineage is not None
        ]
        # prefixes are made for the root problem, and must not see the other's answer
        state, report = inner.observe(replace(step, requests=roots), state)
        return state, {**report, "gt_check": float(np.mean(same)) if same else 1.0}

    return inner._replace(prompts=prompts, observe=observe)


def _graded_as(request: PromptRequest, displaced: PromptRequest) -> PromptRequest:
    if request.lineage is None:
        return request
    other = displaced.problem
    return replace(request, problem=replace(request.problem, answer=other.answer, meta=other.meta))


def proposals(**settings: Any) -> PromptPolicy:
    """``prefixes(**settings)`` that only reports what it would queue, for arms without guided prompts."""
    inner = call_with(prefixes, settings, "explore.prompts of the laboratory")

    def observe(step: Step, state: PrefixState) -> tuple[PrefixState, Report]:
        state, report = inner.observe(step, state)
        state.queue = []
        return state, report

    return inner._replace(prompts=lambda draw, state, step: (draw(step.count), state), observe=observe)
