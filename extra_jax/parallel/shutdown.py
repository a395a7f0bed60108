"""SIGTERM and Ctrl-C as a request: finish the step, save, stop. A second Ctrl-C ends the run at once."""

import os
import signal
from types import FrameType
from typing import Self

from extra_jax.interrupts import quit_at_once
from extra_jax.parallel.processes import agree

_HEARD = b"\nextra-jax: finishing the step, then saving it; Ctrl-C once more stops at once\n"


class StopRequest(Exception):
    """Somebody asked to stop, and what is going on now need not be finished."""


class GracefulStop:
    """While in scope, SIGTERM (preemption of a cloud VM) and the first Ctrl-C set a flag instead of ending the process.

    After a Ctrl-C the block ends with ``KeyboardInterrupt`` when everything in it is done: a script that started the
    run stops, too.
    """

    def __init__(self) -> None:
        self._asked = self._interrupted = False

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._asked

    def requested(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer, so all must ask together."""
        return bool(agree(self._asked))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, quit_at_once)
        self._asked = self._interrupted = True
        os.write(2, _HEARD)  # what prints may be in the middle of a line, and holds a lock

    def __enter__(self) -> Self:
        self._previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._handle)}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, or somebody else's
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._interrupted and kind in (None, StopRequest):
            raise KeyboardInterrupt
