"""Progress: the line of a step, plain output in logs, bars on a terminal, silence on other processes."""

import io
import re

import pytest
from rich.console import Console

from extra_jax.telemetry import progress as progress_module
from extra_jax.telemetry.progress import Progress, _clock, _Pace, step_line

METRICS = {
    "loss": 1e-9,
    "reward": 0.4123,
    "pass_rate": 0.3871,
    "frac_reward_zero_std": 0.25,
    "completions/mean_length": 83.4,
    "completions/clipped_ratio": 0.031,
    "entropy": 0.8123,
    "grad_norm": 0.43,
    "advantages/abs_mean": 0.71,
    "tokens_per_second": 12345.6,
    "step_time": 6.21,
    "timing_s/generate": 3.9,
    "timing_s/grade": 0.21,
    "timing_s/update": 2.0,
}


def test_the_line_of_a_step_leads_with_reward_and_leaves_the_loss_out():
    assert step_line(12, METRICS, 100) == (
        "step  12/100 · reward 0.412 · pass 38.7% · no-signal 25% · len 83 · truncated 3.1% · entropy 0.812 · "
        "grad 4.30e-01 · |adv| 0.71 · tok/s 12,346 · 6.2 s (generate 3.9 grade 0.21 update 2.0)"
    )


def test_kl_appears_only_where_it_exists():
    assert " · kl 1.20e-03 · " in step_line(1, METRICS | {"kl": 0.0012})
    assert "kl" not in step_line(1, METRICS)


def test_values_that_are_not_finite_are_shown():
    line = step_line(1, {"reward": 0.0, "grad_norm": float("nan"), "entropy": float("inf"), "pass_rate": None})
    assert line == "step 1 · reward 0.000 · entropy inf · grad nan"


def test_an_evaluation_shows_the_smallest_and_largest_k_with_intervals():
    line = step_line(0, {
        "eval_avg@4": 0.2, "eval_pass@1": 0.2, "eval_pass@1_low": 0.15, "eval_pass@1_high": 0.25,
        "eval_pass@2": 0.3, "eval_pass@4": 0.4,
    })  # fmt: skip
    assert line == "step 0 · eval pass@1 0.200 [0.150, 0.250] · eval pass@4 0.400"


def test_supervised_fine_tuning_shows_its_loss():
    assert step_line(3, {"loss": 0.51234, "grad_norm": 1.0}) == "step 3 · loss 0.5123 · grad 1.00e+00"


def test_without_a_terminal_there_are_only_plain_lines(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 40.0, 41.0, 42.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    with Progress(10, stream=stream) as progress:
        progress.message("resumed [bold]here[/bold]")
        for finished in (0, 10, 20):
            progress.rollouts(finished, 44, 64)
        progress.rollouts(64, 0, 64)
        progress.step(1, METRICS)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "resumed [bold]here[/bold]"
    assert lines[1] == "  rollouts 20/64 finished, 44 in flight"
    assert lines[2].startswith("step  1/10 · reward")
    assert len(lines) == 3
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_there_are_bars(monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140, color_system=None)
    monkeypatch.setattr(progress_module, "Console", lambda **kwargs: console)
    with Progress(10, first_step=3) as progress:
        progress.rollouts(10, 54, 64)
        progress._bars.refresh()
        progress.step(4, METRICS)
        progress._bars.refresh()
    text = stream.getvalue()
    assert "rollouts" in text
    assert "10/64" in text
    assert "54 in flight" in text
    assert re.search(r"steps .* 4/10", text)
    assert "step  4/10 · reward" in text


def test_a_disabled_instance_writes_nothing():
    stream = io.StringIO()
    with Progress(10, enabled=False, stream=stream) as progress:
        progress.rollouts(1, 2, 3)
        progress.step(1, METRICS)
        progress.message("hello")
    assert stream.getvalue() == ""


def test_the_remaining_time_ignores_the_compiling_first_step():
    pace = _Pace(total_steps=100, first_step=0, now=0.0)
    assert pace.seconds_left(5.0) is None
    pace.step(1, 60.0)
    assert pace.seconds_left(60.0) == pytest.approx(60 * 99)
    pace.step(2, 65.0)
    pace.step(3, 70.0)
    assert pace.seconds_left(70.0) == pytest.approx(5 * 97)
    assert pace.seconds_left(72.0) == pytest.approx(5 * 97 - 2)


def test_clock():
    assert [_clock(seconds) for seconds in (9, 75, 3700)] == ["0:09", "1:15", "1:01:40"]
