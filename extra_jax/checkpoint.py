"""Checkpoints: everything that changes the next step, written by Orbax in the background, atomically.

A checkpoint is the arrays of a ``TrainState`` (flat, by path, so that it can be read on any mesh), the cursors of the
run as JSON (position in the data, counters), and the state of exploration, a tree of any shape, where there is one.
Its number is the count of finished steps. A save that was interrupted leaves a temporary folder, which the next start
removes; it is never taken for a checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.serialization import msgpack_restore, msgpack_serialize

from extra_jax.errors import ExtraError

CHECKPOINTS = "checkpoints"
_EXPLORE = "state"
_FORMAT = 2  # of what lies beside the arrays

State = TypeVar("State")


class Checkpointer:
    """Saves and restores the state of one run.

    Args:
        directory: made if missing, unless ``read_only``.
        keep: newest checkpoints to keep.
        read_only: only look; a training process that writes there now is not disturbed.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, read_only: bool = False):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # whose folder it is, only the training process knows
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("arrays", "host", "explore"))

    def latest_step(self) -> int | None:
        """Finished steps of the newest complete checkpoint."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Finished steps of every complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: Any, cursors: Mapping[str, Any] | None = None, explore: dict[str, Any] | None = None
    ) -> None:
        """Starts writing a checkpoint and returns once the arrays are copied; a step already saved is left alone.

        Args:
            step: finished steps.
            state: a tree of arrays.
            cursors: JSON by name; ``None`` where nothing has moved yet.
            explore: nested dicts and lists of numpy arrays, numbers and texts, the same on every process; ``None``
                where there is none.
        """
        if step == self.latest_step():
            return
        host = {"format": _FORMAT, "cursors": None if cursors is None else dict(cursors)}
        items = {"arrays": ocp.args.PyTreeSave(_flatten(state)), "host": ocp.args.JsonSave(host)}
        if explore is not None:
            packed = np.frombuffer(msgpack_serialize(explore, in_place=True), np.uint8)
            items["explore"] = ocp.args.PyTreeSave({_EXPLORE: packed})
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore_cursors(self) -> dict[str, Any] | None:
        """The cursors of the newest checkpoint; ``None`` where nothing had moved yet.

        Raises:
            ExtraError: another version of this program wrote it.
        """
        step = self.latest_step()
        host = self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host
        if host.get("format") != _FORMAT:
            raise ExtraError(
                f"{self.directory}/{step}: its format is {host.get('format', 1)}, this version continues runs of "
                f"format {_FORMAT}. Continue it with the version that wrote it, or start a new run from what export-hf "
                "makes of it"
            )
        return host["cursors"]

    def restore_explore(self) -> dict[str, Any] | None:
        """The state of exploration in the newest checkpoint as it was saved; ``None`` where it has none."""
        step = self.latest_step()
        if not (self.directory / str(step) / "explore").is_dir():
            return None
        as_saved = ocp.args.PyTreeRestore(restore_args={_EXPLORE: ocp.RestoreArgs(restore_type=np.ndarray)})
        packed = self._manager.restore(step, args=ocp.args.Composite(explore=as_saved)).explore[_EXPLORE]
        return _writable(msgpack_restore(np.asarray(packed, np.uint8).tobytes()))

    def restore(self, state: State, *, within: str = "", step: int | None = None) -> tuple[int, State]:
        """Reads a checkpoint into the layout of ``state``, whose own arrays are freed first.

        Args:
            state: a tree of arrays of the right shapes, dtypes and shardings.
            within: path of ``state`` in the tree that was saved, to read only a part of it (``".params"``).
            step: of the checkpoint; default: the newest.

        Raises:
            ExtraError: there is no checkpoint, or its arrays are not those of ``state``.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise ExtraError(f"{self.directory}: no checkpoint; train first")
        wanted = {
            within + name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in _flatten(state).items()
        }
        structure = jax.tree.structure(state)
        jax.tree.map(lambda x: x.delete(), state)
        arrays = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args={k: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype) for k, x in wanted.items()},
            partial_restore=True,
        )
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(arrays=arrays))
        except (ValueError, KeyError) as error:
            raise ExtraError(f"{self.directory}/{step}: does not fit this model and optimizer: {error}") from error
        return step, jax.tree.unflatten(structure, [restored.arrays[name] for name in wanted])

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _flatten(state: Any) -> dict[str, jax.Array]:
    """Arrays by path, e.g. ``.params['embed'].value``; names do not depend on the mesh or on Flax classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _writable(tree: Any) -> Any:
    """The same tree with arrays that may be changed; unpacked ones lie in the bytes that they came from."""
    if isinstance(tree, dict):
        return {key: _writable(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_writable(value) for value in tree]
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def restore_params(params: State, run_dir: Path) -> tuple[int, State]:
    """Parameters of the newest checkpoint of a run and its step; ``params`` and 0 where there is none yet."""
    with Checkpointer(run_dir / CHECKPOINTS, read_only=True) as checkpoints:
        if checkpoints.latest_step() is None:
            return 0, params
        return checkpoints.restore(params, within=".params")
