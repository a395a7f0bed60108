"""What a person sees while a run trains: a step bar, a rollout bar and one dense line per step.

The line leads with what tells whether learning happens (reward, pass rate, groups without signal, advantage size,
gradient norm). The loss of RL is left out on purpose: it is near 0 by construction and people take that for a fault;
supervised fine-tuning, which has no reward, shows it.
On a pipe or in a log file there are no bars, only the lines.
"""

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from extra_jax.errors import printable, redact
from extra_jax.telemetry.names import phase_seconds

_PLAIN_ROLLOUT_SECONDS = 30.0
_PACE_STEPS = 20

_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward", ".3f"),
    ("pass_rate", "pass", ".1%"),
    ("frac_reward_zero_std", "no-signal", ".0%"),
    ("completions/mean_length", "len", ".0f"),
    ("completions/clipped_ratio", "truncated", ".1%"),
    ("entropy", "entropy", ".3f"),
    ("grad_norm", "grad", ".2e"),
    ("advantages/abs_mean", "|adv|", ".2f"),
    ("kl", "kl", ".2e"),
    ("tokens_per_second", "tok/s", ",.0f"),
)

_SFT_LOSS = ("loss", "loss", ".4f")


def step_line(step: int, metrics: Mapping[str, Any], total_steps: int | None = None) -> str:
    """One step on one line; metrics that are absent are left out, values that are not finite are shown as such.

    Evaluation results of the step are appended. Seconds are the step time with its phases in brackets.
    """
    width = len(str(total_steps)) if total_steps else 0
    parts = [f"step {step:>{width}}/{total_steps}" if total_steps else f"step {step}"]
    fields = _FIELDS if "reward" in metrics else (_SFT_LOSS, *_FIELDS)
    parts += [f"{label} {_format(metrics[key], form)}" for key, label, form in fields if metrics.get(key) is not None]
    if seconds := _seconds(metrics):
        parts.append(seconds)
    return " · ".join(parts + _evaluation(metrics))


def _format(value: Any, form: str) -> str:
    number = float(value)
    return format(number, form) if number - number == 0.0 else str(number)


def _seconds(metrics: Mapping[str, Any]) -> str:
    phases = phase_seconds(metrics)
    split = " ".join(f"{name} {_short_seconds(value)}" for name, value in phases.items())
    if (total := metrics.get("step_time")) is None:
        return split
    return f"{_short_seconds(float(total))} s ({split})" if split else f"{_short_seconds(float(total))} s"


def _short_seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _evaluation(metrics: Mapping[str, Any]) -> list[str]:
    """pass@1 of every benchmark; of a single one also the largest pass@k."""
    names = [
        key for key in metrics if key.startswith("eval_") and "pass@" in key and not key.endswith(("_low", "_high"))
    ]
    shown = [name for name in names if name.endswith("pass@1")]
    if len(shown) == 1 and len(names) > 1:
        shown.append(names[-1])
    return [
        f"{name.replace('eval_', 'eval ', 1).replace('_pass', ' pass')} {_interval(metrics, name)}" for name in shown
    ]


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
        """A line of its own, above the bars."""
        self._console.print(Text(printable(redact(text))))


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
        """Moves the step bar to ``step`` and prints the line of the step."""
        if not self._enabled:
            return
        self._pace.step(step, time.monotonic())
        self.update(self._step_bar, completed=step)
        self.update(self._rollout_bar, visible=False)
        self._last_line = 0.0
        self.line(step_line(step, metrics, self._total_steps))

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
