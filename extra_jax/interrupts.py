"""Ctrl-C that ends a program at once and without a traceback: while it starts, and when it is pressed again."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
_SHOW_CURSOR = "\x1b[?25h"  # which progress bars hide


def quit_at_once(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """A signal handler: nothing more of this program runs."""
    os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}\nextra-jax: interrupted\n".encode())
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """While modules are imported, where an exception can get lost in a callback, and there is nothing to clean up."""
    before = signal.getsignal(signal.SIGINT)
    # It may be ignored, in the background of a shell, or somebody else's.
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, quit_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
