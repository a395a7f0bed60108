"""SIGTERM as a request: finish the step, save, exit 0. Ctrl-C ends the run; pressed again, it ends it at once."""

import signal
from types import FrameType
from typing import Self

from extra_jax.interrupts import quit_at_once
from extra_jax.parallel.processes import agree


class StopRequest(Exception):
    """Somebody asked to stop, and what is going on now need not be finished."""


class GracefulStop:
    """While in scope, SIGTERM sets a flag instead of ending the process (preemption of a cloud VM)."""

    def __init__(self) -> None:
        self._asked = self._interrupted = False

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        if self._interrupted:  # the exception got lost in a callback
            raise KeyboardInterrupt
        return self._asked

    def requested(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer, so all must ask together."""
        return bool(agree(self.asked))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, quit_at_once)
        self._interrupted = True
        raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self._previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._handle)}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, or somebody else's
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
