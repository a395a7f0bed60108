"""Reasoning Gym's own scores (``data.source: reasoning_gym:NAME``), computed in killable workers."""

import functools
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from extra_jax.answers.extract import after_thinking, last_answer
from extra_jax.data.problem import Problem
from extra_jax.data.tasks.gym import library, make_entry
from extra_jax.reward.verdict import Grade, Grader, Verdict
from extra_jax.reward.workers import Limits, PendingGrades, WorkerPool

_OPEN, _CLOSE = "<answer>", "</answer>"


class ReasoningGymGrader(Grader):
    """``score_answer`` of the problem's data set as a ``Grader``: the score is the reward, 1 is ``correct``.

    The answer is what stands in the last ``<answer>`` element after the thinking, or else in the last box.
    """

    def __init__(self) -> None:
        try:
            self.name = f"reasoning_gym/{version('reasoning-gym')}"
        except PackageNotFoundError:
            library()  # says what to install
            raise
        module = "extra_jax.reward.gym"
        limits = Limits(deadline_seconds=30.0, cpu_seconds=15, memory_mb=4096)
        self._pool = WorkerPool(
            f"{module}:score_task", limits=limits, warm_up=(f"{module}:library",)
        )  # it imports for seconds

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> PendingGrades:
        """Starts grading and returns at once."""
        pairs = zip(problems, completions, strict=True)
        return PendingGrades(self.name, [self._begin(problem, text) for problem, text in pairs])

    def close(self) -> None:
        """Stops the workers."""
        self._pool.close()

    def _begin(self, problem: Problem, completion: str) -> Any:
        if not {"dataset", "settings", "item_seed"} <= problem.meta.keys():
            detail = f"problem {problem.uid} is not one of Reasoning Gym"
            return Grade(Verdict.GOLD_UNPARSEABLE, None, self.name, detail)
        answer = find_answer(completion)
        if answer is None:
            return Grade(Verdict.NO_ANSWER, None, self.name, "neither <answer> nor a complete box")
        meta = problem.meta
        return answer, self._pool.submit(meta["dataset"], meta["settings"], meta["item_seed"], answer)


def find_answer(completion: str) -> str | None:
    """What stands in the last closed ``<answer>`` element after the thinking, or else in the last box."""
    text = after_thinking(completion, strict=False) or ""
    before, closed, _ = text.rpartition(_CLOSE)
    if closed and _OPEN in before:
        return before.rpartition(_OPEN)[2].strip()
    boxes = last_answer(text)
    return None if boxes is None else boxes.text


def score_task(dataset: str, settings: dict[str, Any], item_seed: int, answer: str) -> tuple[str, str, str, float]:
    """Verdict, answer, detail and score, in JSON values: the task of a worker."""
    scorer, entry = _entry(dataset, json.dumps(settings), item_seed)
    score = float(scorer.score_answer(answer, entry))
    verdict = Verdict.CORRECT if score >= 1.0 else Verdict.WRONG
    return verdict.value, answer, "" if score in (0.0, 1.0) else f"score {score:g}", score


@functools.lru_cache(maxsize=256)  # the completions of a group come together
def _entry(dataset: str, settings: str, item_seed: int) -> tuple[Any, dict[str, Any]]:
    return make_entry(dataset, json.loads(settings), item_seed)
