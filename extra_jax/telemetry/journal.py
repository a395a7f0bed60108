"""What a run writes down while it works, on process 0; on the other processes everything here is a no-op."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from extra_jax.config import Config
from extra_jax.data.problem import Problem, prompt_text
from extra_jax.parallel.processes import is_main
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts
from extra_jax.telemetry.closing import closing_lines
from extra_jax.telemetry.metrics import MetricsLog
from extra_jax.telemetry.progress import Progress
from extra_jax.telemetry.records import write_rollouts
from extra_jax.telemetry.trackers import COMPLETIONS, make_trackers

_REPORT_SECONDS = 60.0
_logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """The completions of a step on this process, to be written down.

    Attributes:
        problems: one per prompt; ``rollouts.prompt_index`` points into it.
        rollouts: ``R`` completions.
        texts: ``[R]``.
        scores: of the ``R`` completions.
        advantages: ``[R]``.
        columns: further columns, name -> ``[R]`` JSON values.
    """

    problems: Sequence[Problem]
    rollouts: Rollouts
    texts: Sequence[str]
    scores: Scores
    advantages: np.ndarray
    columns: Mapping[str, Sequence[Any]] = MappingProxyType({})


class Journal:
    """Metrics, rollout records, progress and report of one run.

    Args:
        first_step: steps done before; what was written about later ones is dropped, as they run again.
    """

    def __init__(self, config: Config, *, total_steps: int, first_step: int):
        self.run_dir = Path(config.run.dir)
        self._reported = time.monotonic()
        self._every = config.logging.rollouts_every
        self._progress = Progress(total_steps, enabled=is_main(), first_step=first_step)
        self._log: MetricsLog | None = None
        if is_main():
            tree = config.model_dump(mode="json")
            trackers = make_trackers(config.logging.trackers, self.run_dir, tree, first_step or None)
            self._log = MetricsLog(self.run_dir, trackers, resume_step=first_step)
        self.rollouts: Callable[[int, int, int], bool | None] = self._progress.rollouts
        self.message = self._progress.message

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """The numbers after ``step`` finished steps."""
        if self._log is not None:
            self._log.log(step, metrics)
            self._progress.step(step, metrics)
            if any(name.startswith("eval_") for name in metrics):
                self._report_on_the_way()

    def records(self, step: int, record: Record) -> None:
        """The completions of a step, every ``logging.rollouts_every`` steps.

        Process 0 writes its own rows: in a run of many hosts, a sample.
        """
        if self._log is not None and self._every and step % self._every == 0:
            problems, rollouts, texts, scores, advantages, columns = record
            write_rollouts(
                self.run_dir,
                step,
                problems,
                rollouts,
                texts,
                scores.grades,
                scores.rewards,
                advantages,
                reward_parts=scores.parts,
                columns=columns,
            )
            shown = (texts, [g.verdict for g in scores.grades], scores.rewards.tolist(), advantages.tolist())
            prompts = [prompt_text(problems[index].prompt) for index in rollouts.prompt_index[:COMPLETIONS]]
            names = ("prompt", "completion", "verdict", "reward", "advantage")
            rows = [
                dict(zip(names, (prompt, *row), strict=True)) for prompt, *row in zip(prompts, *shown, strict=False)
            ]
            self._log.completions(step, rows)

    def report(self) -> None:
        """Writes ``report.html``, and says what has come of the run and where it is."""
        if self._log is not None:
            from extra_jax.telemetry.report import write_report  # the engine of its charts takes a second to start

            write_report(self.run_dir)
            for line in closing_lines(self.run_dir):
                self.message(line)

    def _report_on_the_way(self) -> None:
        """After an evaluation, when the last report is older than the time that it takes is worth."""
        if time.monotonic() - self._reported < _REPORT_SECONDS:
            return
        from extra_jax.telemetry.report import write_report

        try:
            write_report(self.run_dir)
        except Exception as error:  # a picture is never worth a run
            _logger.warning("no report at this evaluation (%s: %s); the run goes on", type(error).__name__, error)
        self._reported = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)
        if self._log is not None:
            self._log.close()
