"""SIGTERM as a request: finish the step, save, exit 0."""

import signal
from types import FrameType
from typing import Self

from extra_jax.parallel.processes import agree


class GracefulStop:
    """While in scope, SIGTERM sets a flag instead of ending the process (preemption of a cloud VM)."""

    def __init__(self) -> None:
        self._asked = False

    def requested(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer, so all must ask together."""
        return bool(agree(self._asked))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)
