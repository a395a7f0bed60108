"""Drift: the judge's opinion rising while verified correctness does not, which is a policy that learns to please it."""

from typing import Any

_WINDOW = 5  # steps that are averaged
_TOLERANCE = 0.2  # rise of the gap since the first steps, from which on to warn


class Drift:
    """Watches the gap between mean score and verified pass rate."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._last: list[float] = []
        self._warned = False

    def observe(self, gap: float | None) -> dict[str, float]:
        """``judge/drift``: how much the gap has risen since the first steps; empty before that can be said."""
        if gap is not None:
            if len(self._first) < _WINDOW:
                self._first.append(gap)
            self._last = [*self._last, gap][-_WINDOW:]
        rise = self._rise()
        return {} if rise is None else {"judge/drift": rise}

    def alarm(self) -> str | None:
        """A warning, once each time the rise goes beyond the tolerance."""
        beyond = (self._rise() or 0.0) > _TOLERANCE
        new, self._warned = beyond and not self._warned, beyond
        if not new:
            return None
        return (
            f"warning: judge scores have risen by {self._rise():.2f} more than verified correctness since the start; "
            "the policy may be learning to please the judge. Look at rollouts/, and calibrate the judge on this store"
        )

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"first": self._first, "last": self._last, "warned": self._warned}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where ``state`` was taken."""
        self._first, self._last, self._warned = list(state["first"]), list(state["last"]), state["warned"]

    def _rise(self) -> float | None:
        if len(self._first) < _WINDOW:
            return None
        return sum(self._last) / len(self._last) - sum(self._first) / len(self._first)
