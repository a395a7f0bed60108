"""What lies beside the arrays of a checkpoint: cursors, and a state of exploration of any shape."""

import json
from pathlib import Path

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
        found = checkpoints.restore_explore()
        assert same(found, TREE), "values, types and the order of the keys"
        assert checkpoints.restore_cursors() == {"loader": {"at": 3}}
    found["zeta"]["a\x00b/c.d"][0] += 1


def test_where_nothing_explores_or_has_moved_there_is_nothing_to_restore(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {"w": jnp.ones(2)})
        checkpoints.wait()
        assert checkpoints.restore_explore() is None
        assert checkpoints.restore_cursors() is None


def test_a_run_of_an_older_version_is_refused_before_its_arrays_are_read(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(4, {"w": jnp.ones(2)}, {})
    host = tmp_path / "4" / "host" / "metadata"
    host.write_text(json.dumps({"loader": None, "num_tokens": 0}))
    with Checkpointer(tmp_path) as checkpoints, pytest.raises(ExtraError, match=r"4: its format is 1.* format 2"):
        checkpoints.restore_cursors()
