"""Files and folders that appear whole or not at all, whenever the process is killed, and files that others wrote.

A file is written beside its name, synced to disk and renamed. In a bucket (``gs://``, through ``epath``) an object
appears when it is complete, so there it is written directly.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from extra_jax.errors import ExtraError

if TYPE_CHECKING:
    from etils import epath
    from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound="BaseModel")
PathT = TypeVar("PathT", bound=str | os.PathLike[str])


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as ``gs://bucket/x``, where files are neither appended to, locked nor renamed."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None


_PLACE = "Choose a place that can be written to"
_REMEDIES = {
    errno.ENOSPC: "Make room on that disk",
    errno.EDQUOT: "Make room within your quota",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "Allow more open files (ulimit -n 65536)",
    errno.ENFILE: "Allow more open files on this machine",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP),
        _PLACE,
    ),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.ENXIO, errno.EBUSY, errno.ESTALE, errno.EIO), _PLACE),
}
# What the storage of checkpoints quotes in a ValueError or RuntimeError.
_QUOTED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def disk_refusal(error: BaseException, path: str | os.PathLike[str] | None = None) -> str | None:
    """What a disk or its owner refuses, where and what to do about it; ``None``: ``error`` is nothing of that.

    Args:
        error: an ``OSError``, or an error of another library that quotes one.
        path: what was being done, for an error that names no file. Without it, an ``OSError`` that names none may be
            about anything, unless it is one of room.
    """
    quoted = (code for code in _QUOTED if os.strerror(code) in str(error))
    code = error.errno if isinstance(error, OSError) else next(quoted, None)
    if code is None or code not in _REMEDIES:
        return None
    file = getattr(error, "filename", None) or path
    if file is None and code not in _QUOTED:
        return None
    place = "" if file is None else f"{os.fsdecode(file)}: "
    return f"{place}{os.strerror(code)}. {_REMEDIES[code]} and run the same command again."


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a disk refuses in the block (``disk_refusal``), as an error that a user can mend.

    Args:
        path: what is being written, for errors that do not name a file.

    Raises:
        ExtraError: in place of ``OSError``, and of errors of other libraries that quote one.
    """
    try:
        yield
    except ExtraError:
        raise
    except Exception as error:
        if (refusal := disk_refusal(error, path)) is None:
            raise
        raise ExtraError(refusal) from error


@contextlib.contextmanager
def whole_file(path: Path, private: bool = False) -> Iterator[IO[bytes]]:
    """A binary file to write a local file into; ``path`` has it when the block ends, and is untouched if it raises.

    Missing parent folders are made. Processes that share a disk may write the same file: the last one wins. What is
    ``private`` can be read by its owner alone. What the disk refuses is an ``ExtraError``.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    mode = 0o600 if private else 0o666
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def remove_orphans(folder: Path, names: str = "*") -> None:
    """Removes what a kill left of ``whole_file`` in a folder that nobody else writes to now."""
    for beside in folder.glob(f".{names}.tmp"):
        beside.unlink(missing_ok=True)


def write_file(path: PathT, content: str | bytes, private: bool = False) -> PathT:
    """Writes a local or remote file, text in UTF-8, as ``whole_file`` does."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        from etils import epath

        remote = epath.Path(path)
        remote.parent.mkdir(parents=True, exist_ok=True)
        remote.write_bytes(data)
    else:
        with whole_file(Path(path), private) as file:
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


def ordinary_file(path: str | os.PathLike[str]) -> "epath.Path":
    """A local or remote file that somebody else may have written.

    Raises:
        ExtraError: there is no such file, or it is no ordinary file (a folder, or a pipe that would never end).
    """
    from etils import epath

    # Of a local path, epath's `is_file` means "no folder", which would wait at a pipe for ever.
    file = epath.Path(path) if is_remote(path) else Path(path)
    try:
        if file.is_file():
            return epath.Path(path)
        what = "is not an ordinary file" if file.exists() else "there is no such file"
    except OSError as error:
        raise ExtraError(f"{os.fspath(path)}: cannot be read ({error.strerror or error}).") from error
    raise ExtraError(f"{os.fspath(path)}: {what}. Check the path; relative ones start at the working folder.")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a local or remote file that somebody else may have written.

    Raises:
        ExtraError: as ``ordinary_file``; it cannot be read, is not UTF-8, or holds NUL. A byte order mark is no part.
    """
    try:
        text = ordinary_file(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExtraError(f"{os.fspath(path)}: not UTF-8 text ({error}). Write it again as UTF-8.") from error
    except OSError as error:
        raise ExtraError(f"{os.fspath(path)}: cannot be read ({error.strerror or error}).") from error
    if "\0" in text:  # what a crash of the machine leaves in place of the end of a file
        raise ExtraError(f"{os.fspath(path)}: holds NUL characters, so it is damaged or no text. Write it again.")
    return text


def parse_json(text: str | bytes, where: str, remedy: str = "Repair or remove it.") -> Any:
    """The value of JSON text that somebody else may have written; ``where`` (file, row) starts every message.

    Raises:
        ExtraError: not JSON, not UTF-8, nested too deep, a number of thousands of digits, or half of a surrogate pair,
            which no UTF-8 file can hold.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ExtraError(f"{where}: nested too deep to be read. {remedy}") from error
    except ValueError as error:  # also JSONDecodeError, UnicodeDecodeError and UnicodeEncodeError
        raise ExtraError(f"{where}: not valid JSON in UTF-8 ({error}). {remedy}") from error
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file that somebody else may have written, as ``read_text`` and ``parse_json`` read it."""
    return parse_json(read_text(path), os.fspath(path))


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """As ``read_json``, where the file must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ExtraError(f"{os.fspath(path)}: expected a JSON object, found {type(value).__name__}.")
    return value


def as_model(model: type[ModelT], value: Any, where: str) -> ModelT:
    """A JSON value of a file as a pydantic model; ``where`` names the file.

    Raises:
        ExtraError: lists the first faults, each with its key.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, f['loc']))}: {f['msg']} (got {f['input']!r:.80})" for f in error.errors()[:9]]
        raise ExtraError(f"{where}:\n  " + "\n  ".join(faults)) from error
