"""Which sample runs in which slot: plain host bookkeeping, no arrays on devices.

Samples wait in the order of their requests. A slot that becomes free takes the next one. The keys and values of its
context come from the slot itself if it already holds them, else from another slot that does (copy), else they are
computed (prefill). A slot keeps the context of the sample that it ran last, so the further samples of a group, and
requests whose contexts begin alike, find it there.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sample:
    """Sample ``index`` of the whole call, which continues the context ``request``: that of a request, or one of its own
    where its beginning is there already."""

    index: int
    request: int
    rollout_id: int


@dataclass
class Plan:
    """What has to happen in one shard before the next chunk."""

    starts: dict[int, Sample] = field(default_factory=dict)  # slot -> sample that begins there
    copies: dict[int, int] = field(default_factory=dict)  # slot -> slot that holds its context
    prefills: dict[int, list[int]] = field(default_factory=dict)  # request -> slots that wait for its context


class Shard:
    """The slots of one shard of the mesh and the samples that wait for them."""

    def __init__(self, slots: int, waiting: deque[Sample]):
        self.running: list[Sample | None] = [None] * slots
        self.held: list[np.ndarray] = [_NOTHING] * slots  # context tokens whose keys and values a slot's cache holds
        self.waiting = waiting
        self._left = Counter(sample.request for sample in waiting)  # samples that wait, by request
        self._source: dict[int, int] = {}  # request with samples that wait -> a slot that was seen to hold its context

    @property
    def live(self) -> int:
        return sum(sample is not None for sample in self.running)

    def holder(self, context: np.ndarray) -> int | None:
        """A slot whose cache begins with what a sample needs that continues ``context``."""
        return next((slot for slot, held in enumerate(self.held) if _begins_with(held, context[:-1])), None)

    def plan(self, contexts: Sequence[np.ndarray]) -> Plan:
        """Assigns waiting samples to free slots.

        Args:
            contexts: of each request, the tokens that its samples continue. A slot feeds the last one itself, so it
                needs the keys and values of those before it.
        """
        plan = Plan()
        free = [slot for slot, sample in enumerate(self.running) if sample is None]
        request, ready = -1, list[int]()
        while free and self.waiting:
            sample = self.waiting.popleft()
            needed, source = contexts[sample.request][:-1], self._source.get(sample.request)
            if sample.request != request:  # the samples of a request are adjacent, and free slots change only if taken
                request, ready = sample.request, [slot for slot in free if _begins_with(self.held[slot], needed)]
            slot = source if source in ready else self._least_wanted(ready, free)
            free.remove(slot)
            # What a slot gets by copy or prefill is no source for others before it has arrived.
            if slot in ready:
                ready.remove(slot)
                self.held[slot] = needed
            elif sample.request in plan.prefills:
                plan.prefills[sample.request].append(slot)
                self.held[slot] = _NOTHING
            else:
                if source is None or not _begins_with(self.held[source], needed):
                    source = self.holder(contexts[sample.request])
                if source is not None:
                    plan.copies[slot] = source
                else:
                    plan.prefills[sample.request] = [slot]
                self.held[slot] = _NOTHING
            self.running[slot] = plan.starts[slot] = sample
            self._left[sample.request] -= 1
        for slot, sample in plan.starts.items():
            self.held[slot] = contexts[sample.request][:-1]
            self._source[sample.request] = slot
        self._source = {request: slot for request, slot in self._source.items() if self._left[request]}
        return plan

    def _least_wanted(self, ready: list[int], free: list[int]) -> int:
        """A free slot whose context no waiting sample needs, if there is one; slots that are ready come first."""
        wanted = set(self._source.values())
        return next((slot for slot in (*ready, *free) if slot not in wanted), (*ready, *free)[0])

    def forget(self, capacity: int) -> None:
        """From now on the cache keeps only the first ``capacity`` positions of a row that rests."""
        self.held = [held[:capacity] for held in self.held]

    def keep(self, slots: int) -> list[int]:
        """Gives up all but ``slots`` rows; returns which row each of them was. Live rows come first, then those that
        hold most."""
        order = sorted(range(len(self.running)), key=lambda slot: (self.running[slot] is None, -len(self.held[slot])))
        rows = order[:slots]
        self.held = [self.held[row] for row in rows]
        self.running = [self.running[row] for row in rows]
        moved = {row: slot for slot, row in enumerate(rows)}
        self._source = {request: moved[slot] for request, slot in self._source.items() if slot in moved}
        return rows


_NOTHING = np.zeros(0, np.int32)


def _begins_with(held: np.ndarray, needed: np.ndarray) -> bool:
    size = len(needed)
    if len(held) < size or not size:
        return not size
    return held[size - 1] == needed[-1] and bool((held[:size] == needed).all())


def distribute(groups: Sequence[Sequence[Sample]], shards: int) -> list[deque[Sample]]:
    """The samples of each shard: those of a context stay together, and go to the shard that has fewest so far."""
    queues: list[deque[Sample]] = [deque() for _ in range(shards)]
    for group in groups:
        min(queues, key=len).extend(group)
    return queues
