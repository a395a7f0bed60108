"""What all kinds of training share, with arithmetic in place of a model: resume, stop, refuse, and the result."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from extra_jax import run as module
from extra_jax.config import Config, config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.interrupts import quit_at_once
from extra_jax.learn.update import TrainState
from extra_jax.parallel.shutdown import GracefulStop, StopRequest
from extra_jax.run import Count, Run, TrainResult
from extra_jax.run_dir import check_inputs, locked, open_run, tidy
from extra_jax.telemetry.records import record_path

STEPS, EVERY = 7, 2


class Killed(Exception):
    """In place of a kill: nothing after it runs."""


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    folders: list[Path] = []
    monkeypatch.setattr(module, "export_policy", lambda policy, params, folder: folders.append(folder))
    return folders


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C reaches Python also where the tests run in the background, whose shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Memory:
    """An exploration that remembers steps."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def state(self) -> dict:
        return {"seen": list(self.seen)}

    def restore(self, state: dict | None) -> None:
        self.seen = (state or {"seen": []})["seen"]


def count(
    run_dir: Path,
    *,
    kill: int = -1,
    stop: int = -1,
    give_up: int = -1,
    round_size: int = 1,
    name: str = "sum",
    number: int = signal.SIGTERM,
) -> TrainResult:
    """Parameters grow by the sum of all steps so far, which is a cursor, and by the number of steps remembered."""
    tree = {"run": {"dir": str(run_dir)}, "model": {"preset": "tiny"}, "tokenizer": {"path": "tiny"}}
    tree |= {"data": {"source": "chain"}, "checkpoint": {"every": EVERY}}
    config = config_from_dict(tree)
    total, memory = Count(), Memory()
    with Run(SimpleNamespace(config=config), STEPS) as run:
        run.start(TrainState({"w": jnp.zeros(2)}, {}, jnp.zeros((), jnp.int32)), memory, **{name: total})
        for step in run.steps():
            if step == kill:
                raise Killed
            if step == stop:
                os.kill(os.getpid(), number)
            total.value += step
            memory.seen.append(step)
            if step == give_up:
                os.kill(os.getpid(), number)
            if run.journal.rollouts(1, 1, 2):  # between two chunks of sampling
                raise StopRequest
            run.state = run.state._replace(params={"w": run.state.params["w"] + total.value + len(memory.seen)})
            metrics = {"grad_norm": float(run.state.params["w"][0]), "num_tokens": 3, "completions/mean_length": 1.5}
            run.finish_step(step, metrics, may_save=(step + 1) % round_size == 0)
    return run.result()


def numbers(result: TrainResult) -> list[tuple]:
    return [(row["step"], row["grad_norm"], row["num_tokens"]) for row in result.history]


def test_a_run_continues_from_its_state_its_cursors_and_its_exploration(tmp_path: Path, exported: list[Path]) -> None:
    whole = count(tmp_path / "whole")
    assert numbers(whole)[-1] == (STEPS, float(whole.params["w"][0]), 3 * STEPS)
    with pytest.raises(Killed):
        count(tmp_path / "killed", kill=5)
    assert exported == [tmp_path / "whole" / "export"]
    again = count(tmp_path / "killed")
    assert numbers(again) == numbers(whole), "also the steps before the kill are in the history"
    assert (again.step, again.run_dir) == (STEPS, tmp_path / "killed")
    assert (tmp_path / "killed" / "report.html").exists()


def test_who_is_asked_to_stop_goes_on_to_a_step_that_can_be_continued_from(tmp_path: Path) -> None:
    stopped = count(tmp_path, stop=3, round_size=3)
    assert stopped.step == 6
    assert not (tmp_path / "report.html").exists()
    assert count(tmp_path, round_size=3).step == STEPS


def test_who_is_asked_to_stop_while_a_long_step_samples_gives_the_step_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHORT_STEP", -1.0)
    whole = count(tmp_path / "whole")
    assert count(tmp_path / "run", give_up=3).step == 3, "the loader and exploration had moved on by then"
    assert count(tmp_path / "run", give_up=3).step == 3, "again at once: there is nothing to save"
    assert numbers(count(tmp_path / "run")) == numbers(whole)


def test_who_is_asked_to_stop_while_a_short_step_samples_finishes_it(tmp_path: Path) -> None:
    assert count(tmp_path, give_up=3).step == 4


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    count(tmp_path, stop=3)
    count(tmp_path)
    before = files()
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [(s["from_step"], s["to_step"], s["result"]) for s in sessions] == [(0, 4, "stopped"), (4, 7, "finished")]
    count(tmp_path)
    after = files()
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


@pytest.mark.parametrize("moment", ["stop", "give_up"])
def test_ctrl_c_finishes_the_step_saves_says_so_and_ends_as_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], heard: None, moment: str
) -> None:
    monkeypatch.setattr(module, "_SHORT_STEP", -1.0 if moment == "give_up" else 15.0)
    whole, before = count(tmp_path / "whole"), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        count(tmp_path / "run", **{moment: 3}, number=signal.SIGINT)
    printed = capfd.readouterr().err
    assert "finishing the step, then saving it; Ctrl-C once more stops at once" in printed
    assert f"saved step {3 if moment == 'give_up' else 4}; the same command continues" in printed
    assert signal.getsignal(signal.SIGINT) is before
    assert numbers(count(tmp_path / "run")) == numbers(whole)


def test_after_a_ctrl_c_the_next_one_stops_at_once(heard: None) -> None:
    def interrupted() -> None:
        with GracefulStop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested()
            assert signal.getsignal(signal.SIGINT) is quit_at_once

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_who_is_asked_to_stop_in_an_evaluation_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stop_at = count(tmp_path / "whole"), [3]

    class Evaluation:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, params: object, step: int, progress: Callable[[int, int, int], bool | None]) -> dict:
            progress(0, 1, 2)
            if stop_at == [step]:
                os.kill(os.getpid(), signal.SIGTERM)
                if progress(1, 1, 2):
                    raise StopRequest
            return {"eval_pass@1": 0.5}

        def close(self) -> None: ...

    monkeypatch.setattr(module, "Evaluator", Evaluation)
    monkeypatch.setattr(module, "is_due", lambda step, every: step == 3 or (every > 0 and step % every == 0))
    monkeypatch.setattr(Config, "benchmarks", {"one": None})
    assert count(tmp_path / "run").step == 3
    stop_at.clear()
    assert numbers(count(tmp_path / "run")) == numbers(whole)


def test_two_trainings_at_once_are_refused_and_the_first_one_named(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        count(tmp_path, kill=3)
    with locked(tmp_path), pytest.raises(ExtraError, match=rf"process {os.getpid()} on \S+ is training here"):
        count(tmp_path)
    other = SimpleNamespace(config=plain_config(tmp_path))
    with pytest.raises(ExtraError, match="another configuration"), Run(other, STEPS):
        pass
    assert count(tmp_path).step == STEPS, "nobody who was refused keeps the lock"


def test_where_files_cannot_be_locked_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert count(tmp_path).step == STEPS
    assert "run.lock: cannot be locked (No locks available)" in caplog.text


def plain_config(run_dir: Path) -> Config:
    return config_from_dict({"run": {"dir": str(run_dir)}, "model": {"preset": "tiny"}, "data": {"source": "chain"}})


def test_orphans_and_records_of_steps_that_run_again_are_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rollouts").mkdir()
    orphan = tmp_path / "rollouts" / ".step_000003.jsonl.17.tmp"
    for path in (orphan, record_path(tmp_path, 1), record_path(tmp_path, 99)):
        path.write_text("{}")
    record_path(tmp_path, 2).write_text("{}\n")
    tidy(plain_config(tmp_path), 4)
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == ["step_000001.jsonl", "step_000002.jsonl"]
    assert "records of 3 steps are missing or cut: [3, 4, 1]" in caplog.text


def test_a_run_ends_with_as_many_checkpoints_as_it_keeps_wherever_it_was_killed(tmp_path: Path) -> None:
    count(tmp_path)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "6", folder / "4")  # as a kill before its removal leaves it
    count(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["6", "7"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.yaml").unlink(), r"config\.yaml: there is no such file.*Put it back"),
        (lambda d: (d / "run.json").write_text("{"), r"run\.json: not valid JSON.*Repair or remove"),
        (lambda d: (d / "metrics.jsonl").unlink(), r"metrics\.jsonl ends at step -1.*Put the files back"),
        (lambda d: ((d / "metrics.jsonl").unlink(), (d / "metrics.jsonl").mkdir()), r"not an ordinary file"),
        (lambda d: prepend(d, '{"step": 0, "x": ' + "9" * 5000 + "}"), r"metrics\.jsonl, row 1: .*digits"),
        (lambda d: prepend(d, '{"step": 0, "x": ' + "[" * 9**5 + "]" * 9**5 + "}"), r"row 1: nested too deep"),
    ],
    ids=["no config.yaml", "run.json", "no metrics", "metrics is a folder", "5,000 digits", "nested"],
)
def test_damaged_files_of_a_run_are_named_errors(damage: Callable, message: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        count(tmp_path, kill=5)
    damage(tmp_path)
    with pytest.raises(ExtraError, match=f"(?s){message}"):
        count(tmp_path)


def prepend(run_dir: Path, line: str) -> None:
    (run_dir / "metrics.jsonl").write_text(f"{line}\n{(run_dir / 'metrics.jsonl').read_text()}")


def test_where_the_last_lines_are_lost_the_run_goes_on_from_an_older_checkpoint(tmp_path: Path) -> None:
    whole = count(tmp_path / "whole")
    with pytest.raises(Killed):
        count(tmp_path / "run", kill=5)
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3])[:-20])  # checkpoints 2 and 4, lines 1 and 2
    assert numbers(count(tmp_path / "run")) == numbers(whole)


def test_lines_that_are_lost_in_the_middle_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        count(tmp_path, kill=5)
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[2:]))
    assert count(tmp_path).step == STEPS
    assert "the numbers of 2 steps are missing: 1, 2]; they stay lost" in caplog.text


def test_functions_and_tokenizer_of_a_run_may_not_change(tmp_path: Path) -> None:
    functions, tokenizer = tmp_path / "mine.py", tmp_path / "model" / "tokenizer.json"
    tokenizer.parent.mkdir()
    functions.write_text("1")
    tokenizer.write_text("{}")
    config = config_from_dict(
        {
            "run": {"dir": str(tmp_path / "run")},
            "model": {"path": str(tokenizer.parent)},
            "data": {"source": "chain"},
            "reward": {"functions": [f"{functions}:score"]},
        }
    )
    open_run(config)
    check_inputs(config, "before the first step")
    check_inputs(config, "weights")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
    check_inputs(config, "weights")
    with pytest.raises(ExtraError, match=r"began with another version of weights of .*model\. Put that back"):
        check_inputs(config, "others")
    for file in (functions, tokenizer):
        before = file.read_text()
        file.write_text("2")
        open_run(config)
        with pytest.raises(ExtraError, match=f"another version of {file}"):
            check_inputs(config, "weights")
        file.write_text(before)
    check_inputs(config, "weights")


def test_a_checkpoint_of_another_kind_of_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        count(tmp_path, kill=5)
    with pytest.raises(ExtraError, match=r"holds \['num_tokens', 'sum'\].* needs \['loader', 'num_tokens'\]"):
        count(tmp_path, name="loader")
