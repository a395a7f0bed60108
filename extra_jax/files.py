"""Files and folders that appear whole or not at all, whenever the process is killed.

A file is written beside its name, synced to disk and renamed. In a bucket (``gs://``, through ``epath``) an object
appears when it is complete, so there it is written directly.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

PathT = TypeVar("PathT", bound=str | os.PathLike[str])


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as ``gs://bucket/x``, where files are neither appended to, locked nor renamed."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write a local file into; ``path`` has it when the block ends, and is untouched if it raises.

    Missing parent folders are made. Processes that share a disk may write the same file: the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_file(path: PathT, content: str | bytes) -> PathT:
    """Writes a local or remote file, text in UTF-8, as ``whole_file`` does."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        from etils import epath

        remote = epath.Path(path)
        remote.parent.mkdir(parents=True, exist_ok=True)
        remote.write_bytes(data)
    else:
        with whole_file(Path(path)) as file:
            file.write(data)
    return path


def sync(path: Path) -> None:
    """Flushes a file, or the list of entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(finished: Path, target: Path) -> None:
    """Syncs a finished local folder and renames it to ``target``, on the same disk.

    A folder that ``target`` was before survives until then, as ``NAME.replaced``.
    """
    for path in (*finished.rglob("*"), finished):
        sync(path)
    old = target.with_name(target.name + ".replaced")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    finished.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
