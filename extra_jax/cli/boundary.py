"""Where a verb ends: what can be foreseen has a name and status 2, anything else is a bug of ours and has a file."""

import os
import platform
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from extra_jax.errors import ExtraError, printable, redact
from extra_jax.files import disk_refusal, is_remote
from extra_jax.interrupts import INTERRUPTED, quit_at_once

USER_ERROR = 2
BUG = 70
CLOSED_PIPE = 141

_NO_MEMORY = "Use fewer or shorter texts at once: rollout.slots, train.micro_batch_rows, train.prompts_per_step."


class PlainOutput:
    """A stream to which text of models, files and servers is written as characters, never as commands to a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._encoding = stream, stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        self._stream.write(printable(text).encode(self._encoding, "backslashreplace").decode(self._encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guarded(verb: str, argv: Sequence[str], work: Callable[[], int], run_dir: Callable[[], str | None]) -> int:
    """The exit status of ``work``. Errors are said on standard error, none with a traceback.

    Args:
        argv: the command line, for the file about a bug.
        run_dir: where that file goes, once it is known.
    """
    try:
        return work()
    except BrokenPipeError:  # `extra-jax ... | head`; point stdout elsewhere, as Python flushes it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, quit_at_once)  # what is left is the end of the interpreter
        message, status = "interrupted", INTERRUPTED
    except Exception as error:
        if (reason := foreseen(error)) is not None:
            message, status = reason, USER_ERROR
        else:
            _tell_others(f"{type(error).__name__}: {error}", BUG, foreseen=False)
            message, status = _report_bug(error, argv, run_dir()), BUG
    print(f"extra-jax {verb}: {printable(redact(message))}", file=sys.stderr)
    _tell_others(message, status)
    return status


def _tell_others(message: str, status: int, foreseen: bool = True) -> None:
    """Ends the other processes of the run with this one; without jax there are none."""
    if sys.modules.get("jax"):
        from extra_jax.parallel import watchdog

        watchdog.fail(message, status, foreseen=foreseen)


def foreseen(error: BaseException) -> str | None:
    """What to tell a user about ``error`` or what caused it; ``None``: it should not have happened."""
    if isinstance(error, ExtraError):
        return str(error)
    for one in _causes(error):
        first_line = str(one).strip().partition("\n")[0][:300]
        if (refusal := disk_refusal(one)) is not None:
            return refusal
        if isinstance(one, MemoryError) or "RESOURCE_EXHAUSTED" in first_line:
            return f"not enough memory ({first_line or 'none left'}). {_NO_MEMORY}"
        if isinstance(one, ModuleNotFoundError) and one.name and not one.name.startswith("extra_jax"):
            return f"needs the package `{one.name.partition('.')[0]}`, which is not installed; install it with pip"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def check_writable(path: str, what: str) -> None:
    """Refuses a local folder that cannot be made or written, before work starts; leaves nothing there.

    Raises:
        ExtraError: with ``what`` (the setting or option), the path and the reason.
    """
    if is_remote(path):
        return
    target = Path(path).absolute()
    try:
        for folder in (target, *target.parents):
            try:
                folder.lstat()
            except FileNotFoundError:
                continue
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))
            return
    except OSError as error:
        remedy = "Check the path and who may write there."
        raise ExtraError(f"{what} {path}: cannot be written ({error.strerror}). {remedy}") from error


def _report_bug(error: Exception, argv: Sequence[str], run_dir: str | None) -> str:
    from importlib.metadata import distributions

    details = [
        f"command: {shlex.join(['extra-jax', *argv])}",
        f"python: {platform.python_version()} on {platform.platform()}",
        f"packages: {', '.join(sorted(f'{one.name} {one.version}' for one in distributions()))}\n",
        *traceback.format_exception(error),
    ]
    text = printable(redact("\n".join(details)))
    summary = traceback.format_exception_only(error)[-1].strip().partition("\n")[0][:300]
    for folder in (run_dir, None):  # None is the folder of temporary files; files there are their owner's alone
        try:
            if folder is None or Path(folder).is_dir():
                descriptor, name = tempfile.mkstemp(prefix="extra_jax_bug_", suffix=".txt", dir=folder)
                with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return f"this is a bug in extra_jax ({summary}); the details are in {name}"
        except OSError:
            continue  # full or read-only: the next place
    return f"this is a bug in extra_jax, and there is no place to write the details to, so here they are:\n{text}"
