"""What lies beside the arrays of a checkpoint: cursors, and a state of exploration of any shape."""

import itertools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from extra_jax.checkpoint import Checkpointer
from extra_jax.errors import ExtraError

TREE = {
    "zeta": {"a\x00b/c.d": [np.arange(3, dtype=np.int64), 1, -2.5, "text", None, True, []], "": {}},
    "alpha": [{"empty": np.zeros((0, 7), np.float32)}, np.array([True, False]), float("inf")],
    "wide": np.linspace(0, 1, 5).astype(np.float32).reshape(1, 5),
    "count": 2**53 + 1,
}


def same(ours: object, theirs: object) -> bool:
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, np.ndarray):
        return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()
    return type(ours) is type(theirs) and ours == theirs


def test_a_state_of_exploration_of_any_shape_comes_back_as_it_was_and_may_be_changed(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(2)}, {"loader": {"at": 3}}, TREE)
    with Checkpointer(tmp_path) as checkpoints:
        saved = checkpoints.resume({"w": jnp.zeros(2)}, recorded=1)
    assert same(saved.explore, TREE), "values, types and the order of the keys"
    assert (saved.step, saved.cursors) == (1, {"loader": {"at": 3}})
    assert saved.state["w"].tolist() == [1, 1]
    saved.explore["zeta"]["a\x00b/c.d"][0] += 1


def test_where_nothing_explores_or_has_moved_there_is_nothing_to_restore(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {"w": jnp.ones(2)})
        checkpoints.wait()
        saved = checkpoints.resume({"w": jnp.zeros(2)}, recorded=-1)
    assert (saved.step, saved.cursors, saved.explore) == (0, None, None)


def test_a_run_of_an_older_version_is_refused(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(4, {"w": jnp.ones(2)}, {})
    (tmp_path / "4" / "host" / "metadata").write_text(json.dumps({"loader": None, "num_tokens": 0}))
    shutil.rmtree(tmp_path / "4" / "digest")
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.restore({"w": jnp.zeros(2)})[0] == 4, "a model can be made of it"
        with pytest.raises(ExtraError, match=r"4: its format is 1.* format 3"):
            checkpoints.resume({"w": jnp.zeros(2)}, recorded=4)


def saved_twice(folder: Path) -> Path:
    """Checkpoints 2 and 4; returns the newer one."""
    with Checkpointer(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, {"w": jnp.full(600, step, jnp.float32)}, {"at": step}, {"seen": np.arange(step)})
    return folder / "4"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "host emptied": lambda c: (c / "host" / "metadata").write_text(""),
    "cursors null": lambda c: (c / "host" / "metadata").write_text('{"format": 3, "cursors": null}'),
    "host of an older format": lambda c: (c / "host" / "metadata").write_text("{}"),
    "host removed": lambda c: shutil.rmtree(c / "host"),
    "exploration removed": lambda c: shutil.rmtree(c / "explore"),
    "arrays removed": lambda c: shutil.rmtree(c / "arrays"),
    "digest removed": lambda c: shutil.rmtree(c / "digest"),
    "digest: one bit": lambda c: flip(c / "digest" / "metadata", 60),
    "digest: no object": lambda c: (c / "digest" / "metadata").write_text("[]"),
    "data of the arrays halved": lambda c: [p.write_bytes(p.read_bytes()[:9]) for p in c.glob("arrays/**/d/*")],
    "data of the arrays removed": lambda c: [p.unlink() for p in c.glob("arrays/**/d/*")],
    "all is emptied": lambda c: [p.write_bytes(b"") for p in c.rglob("*") if p.is_file()],
    "a file in its place": lambda c: (shutil.rmtree(c), c.write_text("x")),
    "an empty folder in its place": lambda c: (shutil.rmtree(c), c.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_leads_to_the_one_before_it_and_says_so(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(saved_twice(tmp_path))
    with Checkpointer(tmp_path) as checkpoints:
        saved = checkpoints.resume({"w": jnp.zeros(600)}, recorded=4)
        assert (saved.step, saved.cursors, float(saved.state["w"].sum())) == (2, {"at": 2}, 1200.0)
        checkpoints.save(4, {"w": jnp.ones(600)}, {"at": 4}, {"seen": np.arange(4)})
    assert f"{tmp_path}/4: damaged (" in caplog.text
    assert "Step 2 is used instead" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "4.aside"]


@pytest.mark.parametrize("part", ["arrays", "explore", "host", "digest"])
def test_no_flipped_bit_goes_unnoticed(part: str, tmp_path: Path) -> None:
    """Whatever bit of whatever file changes: what is restored is one of the two states, whole."""
    saved_twice(tmp_path / "run")
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "run" / "4" / part).rglob("*") if path.is_file())
    assert files
    rng = np.random.default_rng(0)
    for number, file in enumerate(files * 2):
        shutil.copytree(tmp_path / "run", tmp_path / f"{number}")
        flip(tmp_path / f"{number}" / file.relative_to("run"), int(rng.integers(1 << 30)))
        with Checkpointer(tmp_path / f"{number}") as checkpoints:
            saved = checkpoints.resume({"w": jnp.zeros(600)}, recorded=4)
        assert saved.step in (2, 4)
        assert saved.state["w"].tolist() == [saved.step] * 600
        assert saved.cursors == {"at": saved.step}
        assert saved.explore["seen"].tolist() == list(range(saved.step))


def test_a_clock_that_jumps_by_years_spoils_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 30_000_000.0 * (next(calls) * 7 % 11))
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)}, {})
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.resume({"x": jnp.zeros(3)}, 1).state["x"].tolist() == [1, 1, 1]


def test_who_finds_no_whole_checkpoint_does_not_start_over(tmp_path: Path) -> None:
    saved_twice(tmp_path)
    for path in tmp_path.glob("*/host/metadata"):
        path.unlink()
    reasons = r"no checkpoint that can be used:\n  2: damaged .*host.*\n  4: damaged"
    with Checkpointer(tmp_path) as checkpoints, pytest.raises(ExtraError, match=reasons):
        checkpoints.resume({"w": jnp.zeros(600)}, recorded=4)
    assert {"2", "4"} == {path.name for path in tmp_path.iterdir()}, "nothing is moved"


def test_a_run_goes_on_from_the_last_step_whose_numbers_are_there(tmp_path: Path) -> None:
    saved_twice(tmp_path)
    with Checkpointer(tmp_path) as checkpoints:
        with pytest.raises(ExtraError, match=r"metrics.jsonl ends at step -1"):
            checkpoints.resume({"w": jnp.zeros(600)}, recorded=-1)
        assert checkpoints.resume({"w": jnp.zeros(600)}, recorded=3).step == 2


def test_arrays_of_another_shape_or_type_do_not_fit(tmp_path: Path) -> None:
    saved_twice(tmp_path)
    for other in (jnp.zeros(599), jnp.zeros(600, jnp.bfloat16)):
        with Checkpointer(tmp_path, read_only=True) as checkpoints, pytest.raises(ExtraError, match="does not fit"):
            checkpoints.restore({"w": other})


def test_what_a_kill_left_of_a_removal_is_removed(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"w": jnp.ones(2)}, {})
    shutil.rmtree(tmp_path / "1" / "arrays")
    (tmp_path / "1" / "_CHECKPOINT_METADATA").unlink()
    with Checkpointer(tmp_path, keep=1) as checkpoints:
        assert checkpoints.resume({"w": jnp.zeros(2)}, recorded=3).step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_the_digest_does_not_depend_on_the_mesh(tmp_path: Path) -> None:
    """Saved on one layout, read on others."""
    value = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    layouts = [jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("a", "b"), (None, "a"), (("a", "b"),), ())]
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jax.device_put(value, layouts[0])}, {})
    for layout in layouts:
        with Checkpointer(tmp_path) as checkpoints:
            saved = checkpoints.resume({"w": jax.device_put(np.zeros_like(value), layout)}, recorded=1)
        np.testing.assert_array_equal(saved.state["w"], value)
