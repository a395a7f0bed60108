"""Trackers: tensorboard for real where it is installed, wandb and trackio against modules that record calls."""

import importlib.util
import subprocess
import sys
import types

import pytest

from extra_jax.errors import ExtraError
from extra_jax.telemetry.metrics import MetricsLog, read_metrics
from extra_jax.telemetry.trackers import _markdown, make_trackers, split_histograms, their_name

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="tensorboard is not installed: pip install extra-jax[track]",
)


class FakeRun:
    def __init__(self, **kwargs):
        self.kwargs, self.logged, self.defined, self.finished = kwargs, [], [], 0

    def log(self, metrics, step=None):
        self.logged.append((step, metrics))

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def finish(self):
        self.finished += 1


@pytest.fixture
def runs(monkeypatch):
    made = []
    for name in ("wandb", "trackio"):
        module = types.ModuleType(name)
        module.Histogram = lambda np_histogram: ("histogram", np_histogram)
        module.Table = lambda columns, data: ("table", columns, data)
        module.init = lambda **kwargs: made.append(FakeRun(**kwargs)) or made[-1]
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_nothing_is_imported_unless_named(tmp_path):
    program = (
        "import sys\nfrom extra_jax.telemetry.trackers import make_trackers\n"
        "assert make_trackers((), sys.argv[1], {}) == ()\n"
        "assert not {'wandb', 'trackio', 'tensorboard', 'torch', 'jax'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch, name):
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match=rf"{name}.*pip install extra-jax\[track\]"):
        make_trackers([name], tmp_path, {})


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ExtraError, match="unknown tracker 'mlflow'; known: tensorboard, wandb, trackio"):
        make_trackers(["mlflow"], tmp_path, {})


def test_wandb_uses_step_as_axis_and_reopens_its_run(tmp_path, runs):
    directory = tmp_path / "my_run"
    (tracker,) = make_trackers(["wandb"], directory, {"train": {"max_steps": 3}})
    tracker.log(7, {"reward": 0.5, "eval_pass@1": 0.25})
    tracker.close()
    make_trackers(["wandb"], directory, {}, resume_step=7)
    first, second = runs
    assert first.kwargs["name"] == "my_run"
    assert first.kwargs["config"] == {"train": {"max_steps": 3}}
    assert first.logged == [(None, {"train/global_step": 7, "train/reward": 0.5, "eval/pass@1": 0.25})]
    assert ("*", "train/global_step") in first.defined
    assert first.finished == 1
    assert second.kwargs["id"] == first.kwargs["id"]
    assert second.kwargs["resume"] == "allow"


def test_trackio_runs_of_equal_folder_names_stay_apart(tmp_path, runs):
    make_trackers(["trackio"], tmp_path / "a" / "run", {})[0].log(7, {"reward": 0.5})
    make_trackers(["trackio"], tmp_path / "b" / "run", {})
    make_trackers(["trackio"], tmp_path / "a" / "run", {}, resume_step=7)
    names = [run.kwargs["name"] for run in runs]
    assert names[0] == names[2] != names[1]
    assert runs[0].logged == [(7, {"train/reward": 0.5})]


def test_projects_are_those_of_the_environment(tmp_path, runs, monkeypatch):
    make_trackers(["wandb", "trackio"], tmp_path, {})
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("TRACKIO_PROJECT", "ours")
    make_trackers(["wandb", "trackio"], tmp_path, {})
    assert [run.kwargs["project"] for run in runs] == ["extra-jax", "extra-jax", "mine", "ours"]
    assert not any("group" in run.kwargs or "tags" in run.kwargs for run in runs), "wandb reads its own variables"


def test_names_are_those_of_the_hugging_face_trainers():
    from transformers.integrations.integration_utils import rewrite_logs

    names = ("reward", "rewards/f/mean", "completions/mean_length", "eval_pass@1", "eval_aime24_pass@1_low")
    assert {their_name(name) for name in names} == set(rewrite_logs(dict.fromkeys(names, 0.0)))


BINS = {f"exploration/cut_decile_{index:02d}": index / 45 for index in range(10)}


def test_the_bins_of_a_distribution_are_one_histogram(tmp_path, runs):
    scalars, histograms = split_histograms(BINS | {"x_0": 1.0, "x_1": 2.0, "step_time": 3.0})
    assert scalars == {"train/x_0": 1.0, "train/x_1": 2.0, "train/step_time": 3.0}
    assert histograms == {"train/exploration/cut_decile": [index / 45 for index in range(10)]}
    (tracker,) = make_trackers(["wandb"], tmp_path, {})
    tracker.log(1, BINS)
    kind, (shares, edges) = runs[0].logged[0][1]["train/exploration/cut_decile"]
    assert (kind, len(shares), edges[0], edges[-1]) == ("histogram", 10, 0.0, 1.0)


ROWS = [{"prompt": "1+1", "completion": "2 <b>|*x*\n", "verdict": "correct", "reward": 1.0, "advantage": 0.5}] * 20


def test_completions_are_a_table(tmp_path, runs):
    (tracker,) = make_trackers(["wandb"], tmp_path, {})
    tracker.completions(3, ROWS)
    kind, columns, data = runs[0].logged[0][1]["completions"]
    assert kind == "table"
    assert columns[:3] == ["step", "prompt", "completion"]
    assert len(data) == 16
    assert data[0] == [3, "1+1", "2 <b>|*x*\n", "correct", 1.0, 0.5]


@needs_tensorboard
def test_tensorboard_scalars_can_be_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = make_trackers(["tensorboard"], tmp_path, {})
    for step in range(4):
        tracker.log(step, {"reward": step / 10, "entropy": float("nan"), **BINS})
    tracker.completions(3, ROWS)
    tracker.close()
    (again,) = make_trackers(["tensorboard"], tmp_path, {}, resume_step=1)
    again.log(2, {"reward": 9.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    values = {event.step: event.value for event in events.Scalars("train/reward")}
    assert values == pytest.approx({0: 0.0, 1: 0.1, 2: 9.0})
    assert len(events.Histograms("train/exploration/cut_decile")[0].histogram_value.bucket) == 10
    assert "completions" in events.Tags()["tensors"]


@needs_tensorboard
def test_runs_in_tensorboard_can_be_compared_by_their_settings(tmp_path):
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import metadata

    settings = {
        "run": {"seed": 3},
        "optim": {"learning_rate": 0.5},
        "eval": {"data": None},
        "explore": {"preset": "grpo"},
    }
    make_trackers(["tensorboard"], tmp_path, settings)[0].close()
    events = EventMultiplexer({"run": str(tmp_path / "tensorboard")})
    events.Reload()
    content = events.SummaryMetadata("run", metadata.SESSION_START_INFO_TAG).plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content)
    assert shown.hparams["run.seed"].number_value == 3
    assert shown.hparams["optim.learning_rate"].number_value == 0.5
    assert shown.hparams["explore.preset"].string_value == "grpo"
    assert shown.hparams["eval.data"].string_value == "null"
    assert shown.group_name == str(tmp_path.resolve())


def test_what_a_model_writes_is_no_markup_in_tensorboard():
    assert _markdown("<script>|*a*") == "&lt;script>\\|\\*a\\*"


class Dying:
    """Fails from the given call on, as a dashboard does whose process was killed."""

    def __init__(self, error, lives=0):
        self.error, self.lives, self.calls = error, lives, 0

    def log(self, step, metrics):
        self.calls += 1
        if self.calls > self.lives:
            raise self.error

    def close(self):
        raise self.error


@pytest.mark.parametrize(
    "error", [ConnectionResetError("gone"), BrokenPipeError(32, "Broken pipe"), ValueError("x"), MemoryError()]
)
def test_a_tracker_that_dies_is_one_warning_and_the_run_goes_on(tmp_path, caplog, error):
    dying, closing, healthy = Dying(error, lives=1), Dying(error, lives=99), FakeRun()
    healthy.close = healthy.finish
    healthy.log = lambda step, metrics: healthy.logged.append(step)
    with MetricsLog(tmp_path, (dying, closing, healthy)) as log:
        for step in range(4):
            log.log(step, {"reward": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path)] == healthy.logged == [0, 1, 2, 3]
    assert healthy.finished == 1
    assert dying.calls == 2, "it gets no more numbers"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert all(f"Dying stopped ({type(error).__name__}" in text for text in warnings)


def test_a_tracker_that_does_not_start_is_refused_by_name(tmp_path, runs, monkeypatch):
    def init(**kwargs):
        raise PermissionError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(ExtraError, match=r"wandb does not start \(PermissionError: no API key\).*leave it out"):
        make_trackers(["wandb"], tmp_path, {})
