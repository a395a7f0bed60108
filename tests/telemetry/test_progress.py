"""Progress: the line of a step, plain output in logs, bars on a terminal, silence on other processes."""

import io
import re

import pytest
from rich.console import Console

from extra_jax.telemetry import progress as progress_module
from extra_jax.telemetry.progress import Progress, _clock, _Pace, all_numbers, evaluation_lines, step_line

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
    assert step_line(12, METRICS, 100) == "step  12/100  reward .412  pass 39%  signal 75%  len 83  H .81  6.2 s"


EXPLORING = METRICS | {"exploration/novelty_mean": 0.214, "exploration/guided_pass_rate": 0.3125, "kl": 0.0012}


def test_exploration_and_the_judge_come_before_what_is_less_important():
    assert step_line(12, EXPLORING, 100) == (
        "step  12/100  reward .412  pass 39%  novelty .21  guided 31%  signal 75%  6.2 s"
    )
    assert "  AUROC 93%  " in step_line(1, METRICS | {"judge/auroc": 0.93})


@pytest.mark.parametrize("steps", [None, 9, 1_000_000])
def test_a_line_never_exceeds_80_columns(steps):
    crowded = EXPLORING | {"judge/auroc": 0.5, "completions/clipped_ratio": 0.5, "step_time": 12345.0}
    assert len(step_line(steps or 1, crowded, steps)) <= 80
    assert all(
        len(line) <= 80 for line in all_numbers(crowded | {"exploration/a_name_of_some_length": 0.1}).splitlines()
    )


def test_truncated_completions_are_shown_when_they_are_many():
    assert "truncated" not in step_line(1, METRICS)
    assert "  truncated 12%  " in step_line(1, METRICS | {"completions/clipped_ratio": 0.12})


def test_values_that_are_not_finite_are_shown():
    line = step_line(1, {"reward": 0.0, "grad_norm": float("nan"), "entropy": float("inf"), "pass_rate": None})
    assert line == "step 1  reward .000  H inf  grad nan"


def test_an_evaluation_shows_the_smallest_and_largest_k_with_intervals():
    lines = evaluation_lines(25, {
        "eval_avg@4": 0.2, "eval_pass@1": 0.2, "eval_pass@1_low": 0.15, "eval_pass@1_high": 0.25,
        "eval_pass@2": 0.3, "eval_pass@16": 0.4, "eval_pass@16_low": 0.35, "eval_pass@16_high": 0.45,
        "eval_completions/mean_length": 9.0,
    })  # fmt: skip
    assert list(lines) == ["eval at step 25  pass@1 0.200 [0.150, 0.250]  pass@16 0.400 [0.350, 0.450]"]


def test_each_of_several_benchmarks_has_a_line():
    metrics = {"eval_aime24_pass@1": 0.1, "eval_aime24_pass@4": 0.2, "eval_math500_pass@1": 0.5}
    lines = ["eval at step 0  aime24  pass@1 0.100  pass@4 0.200", "eval at step 0  math500  pass@1 0.500"]
    assert list(evaluation_lines(0, metrics)) == lines


def test_supervised_fine_tuning_shows_its_loss():
    assert step_line(3, {"loss": 0.51234, "grad_norm": 1.0}) == "step 3  loss .5123  grad 1.0e+00"


def test_all_numbers_are_shown_where_somebody_wants_details(caplog):
    stream = io.StringIO()
    with caplog.at_level("DEBUG", logger="extra_jax"), Progress(10, stream=stream) as progress:
        progress.step(1, METRICS)
    printed = stream.getvalue()
    assert all(f"{name} " in printed for name in METRICS)
    assert "timing_s/generate 3.9" in printed


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
    stamps, texts = zip(*((line[:20], line[20:]) for line in lines), strict=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", stamp) for stamp in stamps)
    assert texts[0] == "resumed [bold]here[/bold]"
    assert texts[1] == "  rollouts 20/64 finished, 44 in flight"
    assert texts[2].startswith("step  1/10  reward")
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
    assert "step  4/10  reward" in text


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
