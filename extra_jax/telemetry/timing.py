"""Wall time by phase of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from extra_jax.parallel import watchdog
from extra_jax.telemetry.names import TIMING_PREFIX


class PhaseTimer:
    """Adds up seconds by phase; phases of one step follow each other."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times its block as ``timing_s/<name>``; several blocks of one name add up."""
        watchdog.at(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            watchdog.at(f"after {name}")
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def metrics(self, completion_tokens: float | None = None) -> dict[str, float]:
        """``timing_s/*`` and ``step_time`` in seconds, and ``tokens_per_second`` where tokens were sampled."""
        phases = {TIMING_PREFIX + name: seconds for name, seconds in self.seconds.items()}
        total = time.perf_counter() - self.start
        rate = {} if completion_tokens is None else {"tokens_per_second": completion_tokens / total}
        return {**phases, "step_time": total, **rate}
