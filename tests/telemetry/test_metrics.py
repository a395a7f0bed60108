"""metrics.jsonl: strict JSON, synced lines, resume, and lines cut by a kill."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from extra_jax.errors import ExtraError
from extra_jax.telemetry.metrics import MetricsLog, read_metrics


class Recorder:
    def __init__(self):
        self.seen, self.closed = [], 0

    def log(self, step, metrics):
        self.seen.append((step, dict(metrics)))

    def close(self):
        self.closed += 1


def lines_of(run_dir):
    return (run_dir / "metrics.jsonl").read_text().splitlines()


def write_steps(run_dir, steps, **kwargs):
    with MetricsLog(run_dir, **kwargs) as log:
        for step in steps:
            log.log(step, {"reward": step / 10})
    return log


def test_a_line_is_on_disk_before_log_returns(tmp_path):
    log = MetricsLog(tmp_path / "new" / "run")
    log.log(1, {"reward": 0.5, "loss": 0.0}, time=1700000000.1234)
    line = lines_of(tmp_path / "new" / "run")[0]
    assert line == '{"step": 1, "time": 1700000000.123, "reward": 0.5, "loss": 0.0}'
    log.close()
    log.close()


def test_scalars_of_every_kind_become_json_numbers(tmp_path):
    class DeviceScalar:  # what jax hands over: an object that numpy can read
        def __array__(self, dtype=None, copy=None):
            return np.asarray(0.1, np.float32)

    values = {
        "f32": np.float32(0.1),
        "f64": np.float64(0.1),
        "int": np.int32(3),
        "device": DeviceScalar(),
        "zero_d": np.asarray(2.5),
        "flag": np.bool_(True),
        "text": "x",
        "none": None,
    }
    with MetricsLog(tmp_path) as log:
        log.log(1, values)
    row = json.loads(lines_of(tmp_path)[0])
    assert {key: row[key] for key in values} == {
        "f32": 0.1, "f64": 0.1, "int": 3, "device": 0.1, "zero_d": 2.5, "flag": True, "text": "x", "none": None,
    }  # fmt: skip


def test_nan_and_infinity_are_null_and_named(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": float("nan"), "kl": np.float32("inf"), "low": -np.inf, "reward": 1.0})
    row = json.loads(lines_of(tmp_path)[0], parse_constant=refuse)
    assert (row["loss"], row["kl"], row["low"], row["reward"]) == (None, None, None, 1.0)
    assert row["nonfinite"] == {"loss": "nan", "kl": "inf", "low": "-inf"}
    assert read_metrics(tmp_path)[0]["nonfinite"]["kl"] == "inf"


def test_an_array_is_refused_by_name(tmp_path):
    with MetricsLog(tmp_path) as log, pytest.raises(TypeError, match=r"'grad'.*shape \(2,\)"):
        log.log(1, {"grad": np.zeros(2)})
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match="reserved"):
        log.log(1, {"time": 1.0})
    assert lines_of(tmp_path) == []


def test_resume_drops_the_steps_that_run_again(tmp_path, caplog):
    write_steps(tmp_path, range(6))
    with caplog.at_level(logging.WARNING):
        log = MetricsLog(tmp_path, resume_step=3)
    log.log(4, {"reward": 9.0})
    log.close()
    assert [(row["step"], row["reward"]) for row in read_metrics(tmp_path)][-2:] == [(3, 0.3), (4, 9.0)]
    assert len(lines_of(tmp_path)) == 5
    assert len(log.notes) == 1
    assert "removed steps 4 to 5" in log.notes[0]
    assert log.notes[0] in caplog.text


def test_without_resume_step_every_line_is_kept(tmp_path):
    write_steps(tmp_path, range(3))
    log = write_steps(tmp_path, [3])
    assert len(lines_of(tmp_path)) == 4
    assert log.notes == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_cut_by_a_kill_is_removed_and_reported(tmp_path, cut):
    write_steps(tmp_path, range(3))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: -cut - 1])
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    log = MetricsLog(tmp_path, resume_step=2)
    assert "cut while it was being written" in log.notes[0]
    log.log(2, {"reward": 0.2})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]


def test_a_complete_last_line_without_newline_is_kept(tmp_path):
    write_steps(tmp_path, range(3))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    log = write_steps(tmp_path, [3], resume_step=2)
    assert log.notes == []
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]


def test_a_kill_loses_no_finished_line(tmp_path):
    program = (
        "import os, signal, sys\nfrom extra_jax.telemetry.metrics import MetricsLog\n"
        "log = MetricsLog(sys.argv[1])\nlog.log(1, {'reward': 0.5})\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert read_metrics(tmp_path)[0]["reward"] == 0.5


def test_a_damaged_earlier_line_names_file_and_row(tmp_path):
    write_steps(tmp_path, range(3))
    lines = lines_of(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], '{"step": 1, "rew', lines[2], ""]))
    with pytest.raises(ExtraError, match=r"metrics\.jsonl, row 2: not valid JSON"):
        MetricsLog(tmp_path, resume_step=2)
    with pytest.raises(ExtraError, match="row 2"):
        read_metrics(tmp_path)


def test_steps_do_not_go_back(tmp_path):
    write_steps(tmp_path, [5])
    with MetricsLog(tmp_path) as log, pytest.raises(ExtraError, match=r"step 3 comes after step 5.*resume_step=2"):
        log.log(3, {})


def test_an_evaluation_of_the_same_step_is_merged_by_the_reader(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(1, {"reward": 0.5, "loss": float("nan")})
        log.log(1, {"eval_pass@1": 0.3, "loss": 0.25})
    assert len(lines_of(tmp_path)) == 2
    (row,) = read_metrics(tmp_path)
    assert (row["reward"], row["eval_pass@1"], row["loss"]) == (0.5, 0.3, 0.25)
    assert "nonfinite" not in row


def test_trackers_get_numbers_and_are_closed(tmp_path):
    tracker = Recorder()
    with MetricsLog(tmp_path, trackers=[tracker]) as log:
        log.log(1, {"reward": np.float32(0.5), "loss": float("nan"), "note": "text", "flag": True, "none": None})
    step, metrics = tracker.seen[0]
    assert step == 1
    assert metrics.keys() == {"reward", "loss", "flag"}
    assert np.isnan(metrics["loss"])
    assert tracker.closed == 1


def test_a_missing_file_and_a_url_are_explained(tmp_path):
    with pytest.raises(ExtraError, match=r"no such file; is .* a run directory"):
        read_metrics(tmp_path)
    with pytest.raises(ExtraError, match=r"gs://bucket/run.*local"):
        MetricsLog("gs://bucket/run")
