"""The run directory: one configuration, and everything that came of it, by one training at a time.

``config.yaml``, ``run.json``, ``run.lock``, ``checkpoints/``, ``metrics.jsonl``, ``rollouts/``, ``evals/``,
``report.html`` and ``export/`` (a Hugging Face folder).
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import distributions, version
from pathlib import Path
from typing import IO, Any

import jax

from extra_jax.checkpoint import CHECKPOINTS
from extra_jax.config import Config, config_differences, load_config, may_change, save_config
from extra_jax.errors import ExtraError
from extra_jax.files import disk_errors, read_json_object, remove_orphans, write_file
from extra_jax.learn.bundle import REPLAY_FOLDER
from extra_jax.parallel.processes import is_main, on_main
from extra_jax.parallel.shared import check_shared
from extra_jax.telemetry.files import CONFIG_FILE, LOCK_FILE, METRICS_FILE, ROLLOUTS_FOLDER, RUN_FILE, local_run_dir
from extra_jax.telemetry.records import record_path, recorded_steps

_logger = logging.getLogger(__name__)

_INPUTS = "inputs"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def open_run(config: Config, *, concerns: tuple[str, ...] = ()) -> Path:
    """Makes the run directory, or checks that the one that exists belongs to this configuration.

    Args:
        concerns: sections that must agree with the run that is there, for verbs that only read it; default: all
            that the training depends on.

    A directory in which nothing has run yet (the inputs were refused, or it was killed first) takes any configuration.

    Raises:
        ExtraError: the directory holds a run of another configuration; the differing keys are listed. Or it does not
            say which, or cannot be written to.
    """
    directory = local_run_dir(config.run.dir)
    check_shared(directory)
    saved = directory / CONFIG_FILE
    if _has_results(directory):
        if not saved.exists():
            raise ExtraError(
                f"{saved}: there is no such file, so nobody can say whether the run in {directory} is of this "
                "configuration. Put it back from a copy, or choose another run.dir"
            )
        ignored = tuple(Config.model_fields.keys() - set(concerns)) if concerns else may_change(config)
        if differences := config_differences(load_config(saved), config, ignored):
            raise ExtraError(
                f"{directory}: holds a run of another configuration:\n  "
                + "\n  ".join(differences)
                + "\nChoose another run.dir, or remove this one. To go on from its weights with these settings, export "
                "them (extra-jax export-hf) and start a new run with model.path=FOLDER"
            )
    if is_main() and not (concerns and saved.exists()):
        save_config(config, saved)
        facts = read_json_object(directory / RUN_FILE) if (directory / RUN_FILE).exists() else {}
        write_file(directory / RUN_FILE, json.dumps(facts | _environment() | {_INPUTS: _inputs(directory)}, indent=2))
    return directory


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody else trains in ``directory`` meanwhile; process 0 holds the lock, for as long as it lives.

    Raises:
        ExtraError: another process does; which.
    """
    with contextlib.ExitStack() as stack:
        on_main(lambda: _lock(stack.enter_context(contextlib.closing(_lock_file(directory / LOCK_FILE)))))
        yield


def _lock_file(path: Path) -> IO[str]:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _lock(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise ExtraError(
            f"{Path(file.name).parent}: {file.read() or 'another process'} is training here ({Path(file.name).name} is "
            "locked). Wait for it, stop it, or choose another run.dir"
        ) from error
    except OSError as error:
        _logger.warning(f"{file.name}: cannot be locked ({error.strerror}); see to it that nobody else trains there")
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def check_inputs(config: Config, model: str | None) -> None:
    """Refuses to continue with another model, tokenizer or function than the run began with.

    Args:
        model: fingerprint of the initial weights, where they come from a folder.

    Raises:
        ExtraError: one of them has changed.
    """
    directory = Path(config.run.dir)
    known = _inputs(directory) if _has_results(directory) else {}
    present = _file_inputs(config) | ({} if model is None else {f"weights of {config.model.path}": model})
    if changed := [name for name in known if name in present and known[name] != present[name]]:
        raise ExtraError(
            f"{directory}: this run began with another version of {', '.join(changed)}. Put that back, or choose "
            f"another run.dir; to go on with what is there now, remove its line from {directory / RUN_FILE}"
        )
    facts = read_json_object(directory / RUN_FILE)
    write_file(directory / RUN_FILE, json.dumps(facts | {_INPUTS: known | present}, indent=2))


def _inputs(directory: Path) -> dict[str, str]:
    """Digests of what the run began with."""
    path = directory / RUN_FILE
    if path.exists():
        return read_json_object(path).get(_INPUTS, {})
    if _has_results(directory):
        _logger.warning(f"{path}: is missing, so whether model and functions are those of the run cannot be checked")
    return {}


def _file_inputs(config: Config) -> dict[str, str]:
    """Digests of the files of the tokenizer and of the user's functions."""
    folder = Path(config.tokenizer.path or config.model.path or "")
    paths = [folder / name for name in _TOKENIZER_FILES]
    texts = _texts(config.model_dump(mode="json"))
    paths += [Path(text.rpartition(":")[0]).expanduser() for text in texts if ".py:" in text]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)


def tidy(config: Config, done: int) -> None:
    """Removes what a kill left: unfinished files, and records of steps that run again. Says which records are lost."""
    directory = Path(config.run.dir)
    folders = [directory, directory / ROLLOUTS_FOLDER, directory / REPLAY_FOLDER]
    if config.judge.endpoint:  # else somebody else judges, and may be writing there now
        folders += [path for path in (directory / "store").rglob("*") if path.is_dir()]
    for folder in folders:
        remove_orphans(folder)
    steps = recorded_steps(directory)
    later = [record_path(directory, step) for step in steps if step > done]
    bundles = (directory / REPLAY_FOLDER).glob("step_[0-9]*.npz")
    later += [path for path in bundles if int(path.stem.removeprefix("step_")) > done]
    for path in later:
        path.unlink()
    every = config.logging.rollouts_every
    lost = sorted({*range(every, done + 1, every)} - {*steps}) if every and steps else []
    lost += [step for step in steps if step <= done and not _is_complete(record_path(directory, step))]
    if lost:
        _logger.warning(f"{directory / ROLLOUTS_FOLDER}: records of {len(lost)} steps are missing or cut: {lost[:10]}")


def _is_complete(path: Path) -> bool:
    """Whether the last line of a file has an end."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - 1, 0))
        return file.read() == b"\n"


def check_length(directory: Path, done: int, max_steps: int) -> None:
    """Refuses to end a run before the step that it has reached."""
    if done > max_steps:
        raise ExtraError(f"{directory}: is at step {done} already, beyond max_steps={max_steps}; raise it")


def _has_results(directory: Path) -> bool:
    """Whether anything was measured or saved."""
    metrics = directory / METRICS_FILE
    try:
        return any((directory / CHECKPOINTS).glob("*")) or (metrics.exists() and metrics.stat().st_size > 0)
    except OSError as error:
        raise ExtraError(f"{directory}: cannot be read ({error.strerror}). Choose another run.dir") from error


def _environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("extra-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")},
        **{each.name: each.version for each in distributions(name="libtpu")},  # where there is one
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
    }
