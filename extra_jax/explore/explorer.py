"""Transforms and prompt policies as the training loop sees them: one ``Exploration``.

Order of a step: prompts -> (generate, grade) -> transforms -> policies observe. Every process gathers what the others
saw and computes the same state, so any of them can save it; ``check_lockstep`` stops a run where that is not so.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exploration import Exploration, Explored, PromptRequest
from extra_jax.explore.door import Draw, PromptPolicy, PromptStep, RunInfo, Transform
from extra_jax.explore.encoders import EncoderSettings, token_spans
from extra_jax.explore.step import Step, make_step
from extra_jax.parallel.processes import allgather, share
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts

PREFIX = "exploration/"


class Explorer(Exploration):
    """An ``Exploration`` made of one transform (a chain) and prompt policies.

    The first policy draws from the loader, each other from the one before it.
    """

    def __init__(self, run: RunInfo, transform: Transform, policies: Sequence[PromptPolicy]):
        self.run, self._transform, self._policies = run, transform, list(policies)
        self._state = transform.init(run)
        self._prompt_states = [policy.init(run) for policy in self._policies]

    def prompts(self, draw: Callable[[int], list[Problem]], step: int, count: int) -> list[PromptRequest]:
        source: Draw = lambda n: [PromptRequest(problem) for problem in draw(n)]  # noqa: E731
        for place in range(len(self._policies)):
            source = partial(self._drawn, place, source, step)
        requests = source(count)
        if len(requests) != count:
            raise ExtraError(f"step {step}: the prompt policy gave {len(requests)} prompts, {count} are wanted")
        check_lockstep(json.dumps([[r.problem.uid, list(r.prefix_ids)] for r in requests]), step)
        return requests

    def _drawn(self, place: int, source: Draw, step: int, count: int) -> list[PromptRequest]:
        policy = self._policies[place]
        at = PromptStep(step, count, self.run)
        requests, self._prompt_states[place] = policy.prompts(source, self._prompt_states[place], at)
        return requests

    def spans(self, rollouts: Rollouts) -> np.ndarray | None:
        if not reads_hidden_states(self._transform, self.run.encoder):
            return None
        return token_spans(rollouts, self.run.tokenizer, self.run.encoder.text_span)

    def advantages(
        self,
        requests: list[PromptRequest],
        rollouts: Rollouts,
        scores: Scores,
        advantages: np.ndarray,
        hidden: np.ndarray | None,
        step: int,
    ) -> Explored:
        first = share(len(requests)).start * self.run.group_size
        seen = make_step(step, self.run, requests, rollouts, scores, advantages, hidden, first)
        values, self._state, report = self._transform.update(seen, seen.advantages, self._state)
        values = np.asarray(values, np.float64)
        if values.shape != seen.advantages.shape or not np.isfinite(values).all():
            raise ExtraError(
                f"step {step}: exploration made advantages of shape {values.shape} with "
                f"{int((~np.isfinite(values)).sum())} that are not finite; they must be {seen.advantages.shape} and "
                "finite. Wrap a bonus that leaves completions out (NaN) in bonus(...)"
            )
        reports = [report]
        for place, policy in enumerate(self._policies):
            self._prompt_states[place], report = policy.observe(seen, self._prompt_states[place])
            reports.append(report)
        check_lockstep(f"{zlib.crc32(values.tobytes())}", step)
        metrics, columns = _sorted_out(reports, seen)
        return Explored(values.ravel()[seen.local], metrics, columns)

    def state(self) -> dict[str, Any]:
        policies = zip(self._policies, self._prompt_states, strict=True)
        return {
            "transform": self._transform.save(self._state),
            "policies": [policy.save(state) for policy, state in policies],
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self._state = self._transform.load(state["transform"], self.run)
        trees = zip(self._policies, state["policies"], strict=True)
        self._prompt_states = [policy.load(tree, self.run) for policy, tree in trees]


def reads_hidden_states(transform: Transform, encoder: EncoderSettings) -> bool:
    """Whether a transform wants hidden states of the policy, or vectors that are made of them."""
    return "hidden" in transform.reads or ("vectors" in transform.reads and encoder.name == "policy_hidden")


def _sorted_out(reports: Sequence[Mapping[str, Any]], step: Step) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Numbers are metrics, one value for each completion of the step is a column of the records."""
    metrics: dict[str, float] = {}
    columns: dict[str, list[Any]] = {"advantage_task": [round(float(x), 6) for x in step.advantages.ravel()]}
    for name, value in (item for report in reports for item in report.items()):
        if isinstance(value, np.ndarray) and value.ndim:
            value = [float(x) if np.isfinite(x) else None for x in value.ravel().tolist()]
        if isinstance(value, list) and len(value) == step.rewards.size:
            columns[name] = value
        elif isinstance(value, float | int | np.number | np.bool_ | np.ndarray):
            if np.isfinite(value):
                metrics[PREFIX + name] = float(value)
        else:
            shown = f"with {len(value)} entries" if isinstance(value, list) else f"as {value!r:.80}"
            raise ExtraError(
                f"exploration reports {name!r} {shown}; a column has one for each of the {step.rewards.size} "
                "completions of the step, and a metric is a number"
            )
    return metrics, {name: values[step.local] for name, values in columns.items()}


def check_lockstep(state: str, step: int) -> None:
    """Stops a run whose processes no longer agree on what exploration does; ``state`` is the same where they do."""
    digests = allgather(np.array([zlib.crc32(state.encode())], np.int64))
    if (digests != digests[0]).any():
        raise ExtraError(
            f"step {step}: the processes disagree on the exploration state (digests {digests.tolist()}); are they on "
            "unequal hardware or code? Continue from the last checkpoint on equal hosts"
        )
