"""What a person sees while a run trains: a step bar, a rollout bar and one line of at most 80 columns per step.

The line leads with what tells whether learning happens (reward, pass rate, share of groups with signal), then what
explores and judges, where something does. The loss of RL is left out on purpose: it is near 0 by construction and
people take that for a fault; supervised fine-tuning, which has no reward, shows it. All other numbers follow where the
level of the log ``extra_jax`` is ``DEBUG`` (``-v``). In a pipe or a log file there are no bars, and a line begins with
the time.
"""

import logging
import re
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from extra_jax.errors import printable, redact

COLUMNS = 80
_PLAIN_ROLLOUT_SECONDS = 30.0
_PACE_STEPS = 20
_MANY_TRUNCATED = 0.05

_LEADING_ZERO = re.compile(r"(?<![\d])0\.")

_logger = logging.getLogger(__name__)

# Label, metric and form, the most important first: what does not fit into the line is left out.
_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward", ".3f"),
    ("loss", "loss", ".4f"),
    ("pass", "pass_rate", ".0%"),
    ("novelty", "exploration/novelty_mean", ".2f"),
    ("guided", "exploration/guided_pass_rate", ".0%"),
    ("AUROC", "judge/auroc", ".0%"),
    ("truncated", "completions/clipped_ratio", ".0%"),
    ("signal", "frac_reward_zero_std", ".0%"),
    ("len", "completions/mean_length", ".0f"),
    ("H", "entropy", ".2f"),
    ("kl", "kl", ".1e"),
    ("grad", "grad_norm", ".1e"),
)


def step_line(step: int, metrics: Mapping[str, Any], total_steps: int | None = None) -> str:
    """One step on one line of at most 80 columns; metrics that are absent are left out.

    ``pass`` is the share of correct completions, ``guided`` the same behind a prefix, ``signal`` the share of groups
    whose rewards differ, ``AUROC`` that of the judge's scores, ``len`` tokens, ``H`` the entropy in nats a token.
    Truncated completions are shown when they are many. A value that is not finite is shown as such.
    """
    width = len(str(total_steps)) if total_steps else 0
    line = f"step {step:>{width}}/{total_steps}" if total_steps else f"step {step}"
    end = f"  {_short_seconds(float(metrics['step_time']))} s" if metrics.get("step_time") is not None else ""
    for label, key, form in _FIELDS:
        if (value := metrics.get(key)) is None or (key == "loss" and "reward" in metrics):
            continue
        if key == "completions/clipped_ratio" and not value > _MANY_TRUNCATED:
            continue
        shown = _format(1 - value if label == "signal" else value, form)
        part = f"  {label} {_LEADING_ZERO.sub('.', shown)}"
        if len(line) + len(part) + len(end) <= COLUMNS:
            line += part
    return line + end


def evaluation_lines(step: int, metrics: Mapping[str, Any]) -> Iterator[str]:
    """For each benchmark pass@1 and the largest pass@k, with intervals."""
    names = [
        key.removeprefix("eval_")
        for key in metrics
        if key.startswith("eval_") and "pass@" in key and not key.endswith(("_low", "_high"))
    ]
    for benchmark in dict.fromkeys(name.rpartition("pass@")[0] for name in names):
        scores = [name for name in names if name.rpartition("pass@")[0] == benchmark]
        shown = "  ".join(
            f"{name.removeprefix(benchmark)} {_interval(metrics, f'eval_{name}')}"
            for name in dict.fromkeys((scores[0], scores[-1]))
        )
        yield f"eval at step {step}  {benchmark.rstrip('_')}{'  ' * bool(benchmark)}{shown}"


def all_numbers(metrics: Mapping[str, Any]) -> str:
    """Every metric of a step, in lines of at most 80 columns."""
    shown = [
        f"{key}\u00a0{_format(value, '.4g')}"
        for key, value in metrics.items()
        if isinstance(value, int | float) and not key.startswith("eval_")
    ]
    lines = textwrap.wrap(
        "  ".join(shown), COLUMNS, initial_indent="  ", subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines).replace("\u00a0", " ")


def _format(value: Any, form: str) -> str:
    number = float(value)
    return format(number, form) if number - number == 0.0 else str(number)


def _short_seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{float(low):.3f}, {float(high):.3f}]"
    return f"{float(metrics[name]):.3f}{interval}"


class Display:
    """Bars on a terminal; in a pipe or a log file a line now and then. A context manager.

    Args:
        enabled: ``False`` shows nothing.
        stream: Where to write; standard error, so that standard output stays free for results.
        remaining: A column of its own behind the numbers.
    """

    def __init__(
        self, enabled: bool = True, stream: TextIO | None = None, remaining: ProgressColumn | None = None
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True, quiet=not enabled)
        self._bars: RichProgress | None = None
        if enabled and self._console.is_terminal:
            self._bars = RichProgress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                *([] if remaining is None else [remaining]),
                TextColumn("{task.fields[note]}", style="dim"),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def has_bars(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._bars is not None

    def add(self, description: str, total: int | None = None, **fields: Any) -> TaskID | None:
        """A further bar; ``None`` where there are none."""
        return None if self._bars is None else self._bars.add_task(description, total=total, **{"note": ""} | fields)

    def update(self, bar: TaskID | None, **fields: Any) -> None:
        """Sets ``completed``, ``total``, ``visible`` or ``note`` of a bar."""
        if self._bars is not None and bar is not None:
            self._bars.update(bar, **fields)

    def line(self, text: str) -> None:
        """A line of its own, above the bars; with the time where it goes to a file."""
        stamp = "" if self._console.is_terminal else time.strftime("%Y-%m-%d %H:%M:%S ")
        self._console.print(Text(stamp + printable(redact(text))))


class Progress(Display):
    """Live progress of a run.

    Args:
        total_steps: Steps of the whole run, for the bar and its remaining time.
        enabled: ``False`` makes every method a no-op: all processes but the first of a multi-host run.
        first_step: Steps that were done before (a resumed run); they do not count for the remaining time.
    """

    def __init__(
        self, total_steps: int, enabled: bool = True, first_step: int = 0, stream: TextIO | None = None
    ) -> None:
        self._total_steps, self._enabled, self._last_line = total_steps, enabled, 0.0
        self._pace = _Pace(total_steps, first_step, time.monotonic())
        super().__init__(enabled, stream, _Remaining(self._pace))
        self._step_bar = self.add("steps   ", total_steps, completed=first_step, paced=True)
        self._rollout_bar = self.add("rollouts", visible=False, paced=False)

    def rollouts(self, finished: int, in_flight: int, total: int) -> None:
        """Completions of this step: finished, being sampled now, and to be sampled in all.

        Without a terminal this writes a line at most every 30 seconds, so that a log shows that sampling moves.
        """
        note, visible = f"{in_flight} in flight", finished < total
        self.update(self._rollout_bar, total=total, completed=finished, visible=visible, note=note)
        if not self._enabled or self.has_bars:
            return
        now = time.monotonic()
        if self._last_line == 0.0 or finished >= total:
            self._last_line = now
        elif now - self._last_line >= _PLAIN_ROLLOUT_SECONDS:
            self._last_line = now
            self.line(f"  rollouts {finished}/{total} finished, {in_flight} in flight")

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Moves the step bar to ``step`` and prints the line of the step, or those of an evaluation."""
        if not self._enabled:
            return
        self._pace.step(step, time.monotonic())
        self.update(self._step_bar, completed=step)
        self.update(self._rollout_bar, visible=False)
        self._last_line = 0.0
        if not all(key.startswith("eval_") for key in metrics):
            self.line(step_line(step, metrics, self._total_steps))
            if _logger.isEnabledFor(logging.DEBUG):
                self.line(all_numbers(metrics))
        for line in evaluation_lines(step, metrics):
            self.line(line)

    def message(self, text: str) -> None:
        """A line of its own: a checkpoint, an evaluation, a warning."""
        self.line(text)


class _Pace:
    """Seconds left, from the last steps only: the first one compiles and says nothing about the rest."""

    def __init__(self, total_steps: int, first_step: int, now: float) -> None:
        self._total_steps = total_steps
        self._times: deque[tuple[int, float]] = deque([(first_step, now)], maxlen=_PACE_STEPS)

    def step(self, step: int, now: float) -> None:
        """Step ``step`` is done at ``now`` (seconds on any steady clock)."""
        if step > self._times[-1][0]:
            self._times.append((step, now))

    def seconds_left(self, now: float) -> float | None:
        """``None`` before the first step of this session is done."""
        if len(self._times) < 2:
            return None
        if len(self._times) == 2:
            first, last = self._times
        else:
            first, last = self._times[1] if len(self._times) < _PACE_STEPS else self._times[0], self._times[-1]
        pace = (last[1] - first[1]) / (last[0] - first[0])
        return max(0.0, pace * (self._total_steps - last[0]) - (now - last[1]))


class _Remaining(ProgressColumn):
    """The time left beside the step bar."""

    max_refresh = 1.0

    def __init__(self, pace: _Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Any) -> Text:
        left = self._pace.seconds_left(time.monotonic()) if task.fields.get("paced") else None
        return Text("" if left is None else f"{_clock(left)} left", style="cyan")


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
