"""Checkpoints: everything that changes the next step, written by Orbax in the background, atomically.

A checkpoint is the arrays of a ``TrainState`` (flat, by path, so that it can be read on any mesh), the cursors of the
run as JSON (position in the data, counters), the state of exploration, a tree of any shape, where there is one, and a
digest of all three. Its number is the count of finished steps. A save that was interrupted leaves a temporary folder,
which the next start removes; it is never taken for a checkpoint. What is read is compared with the digest: a run goes
on from its newest checkpoint that is whole.
"""

import contextlib
import gc
import hashlib
import inspect
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.serialization import msgpack_restore, msgpack_serialize

from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.files import disk_errors, is_remote, read_json_object
from extra_jax.model.fingerprint import checksums
from extra_jax.parallel.processes import gather_objects, is_main, on_main

CHECKPOINTS = "checkpoints"
_EXPLORE = "state"
_FORMAT = 3  # of what lies beside the arrays
_ITEMS = ("arrays", "host", "explore", "digest")
# Orbax measures its patience with a clock that may be set: more than it can jump, and less than a thread can wait.
_PATIENCE = 4 * 10**9

_logger = logging.getLogger(__name__)

State = TypeVar("State")
T = TypeVar("T")


class Saved(NamedTuple, Generic[State]):
    """A checkpoint as it was saved.

    Attributes:
        step: finished steps.
        cursors: JSON by name; ``None`` where nothing had moved yet.
        explore: the state of exploration; ``None`` where there is none.
    """

    step: int
    state: State
    cursors: dict[str, Any] | None
    explore: dict[str, Any] | None


class _DamagedError(Exception):
    """A checkpoint is not what was saved."""


class Checkpointer:
    """Saves and restores the state of one run.

    Args:
        directory: made if missing, unless ``read_only``; local, or in a bucket (``gs://``).
        keep: newest checkpoints to keep.
        read_only: only look; a training process that writes there now is not disturbed.
    """

    def __init__(self, directory: str | epath.Path | Path, *, keep: int = 2, read_only: bool = False):
        remote = is_remote(directory)
        self.directory: Any = epath.Path(directory) if remote else Path(directory).absolute()
        self._keep, self._read_only = keep, read_only
        if remote and not read_only:
            on_main(lambda: _check_bucket(self.directory))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # whose folder it is, only the training process knows
            async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE),
        )
        if jax.process_count() == 1:  # with several, it is what ends a run whose other processes are gone
            ocp.multihost.coordination_timeout = lambda: _PATIENCE
        self._quiet = contextlib.ExitStack()
        with disk_errors(self.directory):
            self._quiet.enter_context(_without_complaints())
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)
            self._latest = gather_objects([self._manager.latest_step()])[0]

    def latest_step(self) -> int | None:
        """Finished steps of the newest complete checkpoint, or of the one that is being saved; the same on every
        process, whenever it asks."""
        return self._latest

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
        if step == self._latest:
            return
        arrays = _flatten(state)
        host = {"format": _FORMAT, "cursors": None if cursors is None else dict(cursors)}
        packed = None if explore is None else msgpack_serialize(explore, in_place=True)
        facts = {
            "arrays": {name: [*_shape(arrays[name]), value] for name, value in checksums(arrays).items()},
            "host": _sha256(host),
            "explore": packed and _sha256(packed),
        }
        items = {"arrays": ocp.args.PyTreeSave(arrays), "host": ocp.args.JsonSave(host)}
        items["digest"] = ocp.args.JsonSave({"facts": facts, "sha256": _sha256(facts)})
        if packed is not None:
            items["explore"] = ocp.args.PyTreeSave({_EXPLORE: np.frombuffer(packed, np.uint8)})
        with disk_errors(self.directory):
            self._manager.save(step, args=ocp.args.Composite(**items))
        self._latest = step

    def restore(self, state: State, *, within: str = "", step: int | None = None) -> tuple[int, State]:
        """Reads a checkpoint into the layout of ``state``, whose own arrays are freed first.

        Args:
            state: a tree of arrays of the right shapes, dtypes and shardings.
            within: path of ``state`` in the tree that was saved, to read only a part of it (``".params"``).
            step: of the checkpoint; default: the newest that is whole.

        Raises:
            ExtraError: there is no whole checkpoint, or its arrays are not those of ``state``.
        """
        wanted, structure = _emptied(state, within), jax.tree.structure(state)
        found, arrays = self._newest(wanted, self._numbers() if step is None else [step], {})[:2]
        return found, jax.tree.unflatten(structure, [arrays[name] for name in wanted])

    def resume(self, state: State, recorded: int) -> Saved[State]:
        """Reads the newest checkpoint that a run can go on from; newer ones move aside, surplus ones are removed.

        Args:
            state: as ``restore`` takes it.
            recorded: the last step that is written down: a run cannot go on after a step whose numbers are lost.

        Raises:
            ExtraError: there is none, its arrays are not those of ``state``, or another version wrote it.
        """
        wanted, structure, numbers = _emptied(state), jax.tree.structure(state), self._numbers()
        ahead = f"metrics.jsonl ends at step {recorded}, so lines are lost"
        unusable = {number: ahead for number in numbers if number > max(recorded, 0)}
        step, arrays, host, packed = self._newest(wanted, numbers, unusable)
        if host.get("format") != _FORMAT:
            raise ExtraError(
                f"{self.directory}/{step}: its format is {host.get('format', 1)}, this version continues runs of "
                f"format {_FORMAT}. Continue it with the version that wrote it, or start a new run from what export-hf "
                "makes of it"
            )
        on_main(lambda: self._tidy(step))
        self._manager.reload()
        self._latest = step
        explore = None if packed is None else _writable(msgpack_restore(packed))
        return Saved(step, jax.tree.unflatten(structure, [arrays[n] for n in wanted]), host["cursors"], explore)

    def _newest(
        self, wanted: Mapping[str, jax.ShapeDtypeStruct], numbers: list[int], unusable: dict[int, str]
    ) -> tuple[int, dict[str, jax.Array], dict[str, Any], bytes | None]:
        """Step, arrays, cursors and state of exploration of the newest whole checkpoint of ``numbers``; says which are
        not. All processes decide alike."""
        if not numbers:
            raise ExtraError(f"{self.directory}: no checkpoint; train first")
        for step in reversed(numbers):
            if step in unusable:
                continue
            try:
                contents, reason = self._read(step, wanted), ""
            except _DamagedError as error:
                contents, reason = None, str(error)
            reasons = [text for text in gather_objects([reason]) if text]
            if not reasons and contents is not None:
                arrays, host, packed, digest = contents
                reasons = [name for name, value in checksums(arrays).items() if digest.get(name, value) != value]
                if not reasons:
                    for other, why in sorted(unusable.items()) if is_main() else ():
                        _logger.warning(f"{self.directory}/{other}: {why}. Step {step} is used instead")
                    return step, arrays, host, packed
                reasons = [f"arrays: {', '.join(reasons)[:200]}: not what was saved"]
            unusable[step] = f"damaged ({reasons[0]})"
            del contents
        listed = "".join(f"\n  {step}: {why}" for step, why in sorted(unusable.items()))
        raise ExtraError(
            f"{self.directory}: no checkpoint that can be used:{listed}\nPut the files back from a copy, or choose "
            "another run.dir. Where only lines of metrics.jsonl are lost, this goes on without them:\n  "
            f"""echo '{{"step": {numbers[-1]}}}' >> RUN_DIR/metrics.jsonl"""
        )

    def _read(
        self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> tuple[dict[str, jax.Array], dict[str, Any], bytes | None, dict[str, str]]:
        """Arrays, host state, packed exploration and the checksums that the arrays must have, of this process.

        Raises:
            _DamagedError: something is missing, cannot be read, or is not what was saved; the item is named.
            ExtraError: the arrays that were saved are of another model or optimizer.
        """
        folder = self.directory / str(step)
        if step not in self._manager.all_steps():
            raise _DamagedError("its saving or its removal did not come to an end")
        host = _item(folder, "host", lambda file: read_json_object(file / "metadata"))
        if host.get("format", 1) != _FORMAT and not (folder / "digest").exists():  # older versions wrote none
            return self._arrays(folder, step, wanted), host, None, {}
        digest = _item(folder, "digest", lambda file: read_json_object(file / "metadata"))
        facts: dict[str, Any] = digest.get("facts", {})
        if digest.get("sha256") != _sha256(facts) or facts["host"] != _sha256(host):
            raise _DamagedError(f"{folder.name}/host or digest: not what was saved")
        for name, x in wanted.items():
            if (there := facts["arrays"].get(name, [])[:2]) != _shape(x):
                raise ExtraError(
                    f"{folder}: does not fit this model and optimizer: {name} is {there} there, {_shape(x)} here"
                )
        packed = None
        if facts["explore"] is not None:
            packed = _item(folder, "explore", lambda _: self._explore(step))
            if _sha256(packed) != facts["explore"]:
                raise _DamagedError(f"{folder.name}/explore: not what was saved")
        sums = {name: facts["arrays"][name][2] for name in wanted}
        return self._arrays(folder, step, wanted), host, packed, sums

    def _arrays(self, folder: Path, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        restore_args = {k: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype) for k, x in wanted.items()}
        arrays = ocp.args.PyTreeRestore(item=dict(wanted), restore_args=restore_args, partial_restore=True)
        read = lambda _: self._manager.restore(step, args=ocp.args.Composite(arrays=arrays)).arrays  # noqa: E731
        return _item(folder, "arrays", read)

    def restore_explore(self) -> dict[str, Any] | None:
        """The state of exploration in the newest checkpoint, to look at it; ``None`` where it has none."""
        step = self.latest_step()
        if step is None or not (self.directory / str(step) / "explore").exists():
            return None
        return _writable(msgpack_restore(self._explore(step)))

    def _explore(self, step: int) -> bytes:
        as_saved = ocp.args.PyTreeRestore(restore_args={_EXPLORE: ocp.RestoreArgs(restore_type=np.ndarray)})
        saved = self._manager.restore(step, args=ocp.args.Composite(explore=as_saved)).explore[_EXPLORE]
        return np.asarray(saved, np.uint8).tobytes()

    def _numbers(self) -> list[int]:
        """Whatever is called like a checkpoint, whole or not, ascending; as process 0 lists it."""
        return gather_objects([self._listed()])[0]

    def _listed(self) -> list[int]:
        paths = self.directory.iterdir() if self.directory.exists() else ()
        return sorted(int(path.name) for path in paths if path.name.isdigit())

    def _tidy(self, used: int) -> None:
        """Moves aside what is newer than the checkpoint that is used, and removes what is too old to be kept."""
        numbers = self._listed()
        kept = [number for number in numbers if number <= used][-self._keep :]
        for number in numbers:
            path = self.directory / str(number)
            if number > used:
                aside = self.directory / f"{number}.aside"
                _remove(aside)
                path.rename(aside)
            elif number not in kept:
                _remove(path)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        with disk_errors(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._quiet:
            self.wait()
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or jax.process_count() == 1 or self._manager.is_saving_in_progress():
            self.close()
        else:  # closing waits for the other processes, which this error is ending
            self._quiet.close()


def _item(folder: Path, name: str, read: Callable[[Path], T]) -> T:
    """A part of a checkpoint, which is damaged if its reader fails, unless the machine is what fails."""
    try:
        return read(folder / name)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        text = " ".join(f"{error}".split()) or type(error).__name__
    raise _DamagedError(f"{folder.name}/{name}: {text:.300}")


@contextlib.contextmanager
def _without_complaints() -> Iterator[None]:
    """Orbax raises what it fails of, and it reaches us. It also logs it with a traceback, and what it had begun to read
    or write beside that complains, each with another one."""
    before, log = sys.unraisablehook, logging.getLogger("absl")

    def hook(raised: Any) -> None:
        if "loop is closed" not in f"{raised.exc_value}" and not inspect.iscoroutine(raised.object):
            before(raised)

    def untraced(record: logging.LogRecord) -> bool:
        return not record.exc_info

    sys.unraisablehook = hook
    log.addFilter(untraced)
    try:
        yield
    finally:
        gc.collect()
        log.removeFilter(untraced)
        sys.unraisablehook = before


def checkpoint_folder(config: Config, run_dir: Path) -> Path | epath.Path:
    """Where the checkpoints of the run in ``run_dir`` are."""
    return epath.Path(config.checkpoint.dir) if config.checkpoint.dir else run_dir / CHECKPOINTS


def _check_bucket(directory: epath.Path) -> None:
    """Refuses a bucket that cannot be written to, before anything is computed."""
    probe = directory / ".written_to"
    try:
        probe.write_text("extra-jax")
        probe.unlink()
    except Exception as error:  # of the library of the bucket, or that there is none
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ExtraError(
            f"checkpoint.dir={directory}: cannot be written to ({reason:.300}). It needs gcsfs "
            "(pip install 'extra-jax[gcs]'), and the role storage.objectUser on the bucket"
        ) from error


def _remove(path: Any) -> None:
    if path.is_dir():
        path.rmtree() if isinstance(path, epath.Path) else shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flatten(state: Any) -> dict[str, jax.Array]:
    """Arrays by path, e.g. ``.params['embed'].value``; names do not depend on the mesh or on Flax classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _emptied(state: Any, within: str = "") -> dict[str, jax.ShapeDtypeStruct]:
    """What arrays to read in place of those of ``state``, which are freed."""
    arrays = _flatten(state)
    wanted = {within + k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for k, x in arrays.items()}
    for array in arrays.values():
        array.delete()
    return wanted


def _shape(array: jax.Array | jax.ShapeDtypeStruct) -> list[Any]:
    return [str(array.dtype), list(array.shape)]


def _sha256(value: Any) -> str:
    """Of bytes, or of a JSON value."""
    return hashlib.sha256(value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()).hexdigest()


def _writable(tree: Any) -> Any:
    """The same tree with arrays that may be changed; unpacked ones lie in the bytes that they came from."""
    if isinstance(tree, dict):
        return {key: _writable(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_writable(value) for value in tree]
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def restore_params(params: State, config: Config, run_dir: Path) -> tuple[int, State]:
    """Parameters of the newest whole checkpoint of a run and its step; ``params`` and 0 where there is none yet."""
    with Checkpointer(checkpoint_folder(config, run_dir), read_only=True) as checkpoints:
        if checkpoints.latest_step() is None:
            return 0, params
        return checkpoints.restore(params, within=".params")
