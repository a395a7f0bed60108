"""What all kinds of training share, with arithmetic in place of a model: resume, stop, refuse, and the result."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from extra_jax import run as module
from extra_jax.config import config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.learn.update import TrainState
from extra_jax.run import Count, Run, TrainResult

STEPS, EVERY = 7, 2


class Killed(Exception):
    """In place of a kill: nothing after it runs."""


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    folders: list[Path] = []
    monkeypatch.setattr(module, "export_policy", lambda policy, params, folder: folders.append(folder))
    return folders


class Memory:
    """An exploration that remembers steps."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def state(self) -> dict:
        return {"seen": list(self.seen)}

    def restore(self, state: dict | None) -> None:
        self.seen = (state or {"seen": []})["seen"]


def count(run_dir: Path, *, kill: int = -1, stop: int = -1, round_size: int = 1, name: str = "sum") -> TrainResult:
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
                os.kill(os.getpid(), signal.SIGTERM)
            total.value += step
            memory.seen.append(step)
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


def test_a_checkpoint_of_another_kind_of_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        count(tmp_path, kill=5)
    with pytest.raises(ExtraError, match=r"holds \['num_tokens', 'sum'\].* needs \['loader', 'num_tokens'\]"):
        count(tmp_path, name="loader")
