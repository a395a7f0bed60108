"""Which sample runs in which slot: plain host bookkeeping, no arrays on devices.

Samples wait in the order of their requests. A slot that becomes free takes the next one; where the keys and values of
its context come from is decided by what is at hand: the slot itself already holds them, another slot does (copy), or
nobody does (prefill). A slot holds whatever it computed last, so a request that branches from a rollout of the same
weights finds its beginning there, and so does every further sample of a group.
"""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from extra_jax.rollout.types import Request


@dataclass(frozen=True)
class Sample:
    """Sample ``index`` of the whole call, of request ``request``."""

    index: int
    request: int
    rollout_id: int


@dataclass
class Plan:
    """What has to happen in one shard before the next chunk.

    Attributes:
        starts: slot -> sample that begins there.
        copies: slot -> slot that holds its context.
        prefills: request -> slots that wait for its context.
        reused: samples whose slot held their context already.
    """

    starts: dict[int, Sample] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    prefills: dict[int, list[int]] = field(default_factory=dict)
    reused: list[int] = field(default_factory=list)


class Shard:
    """The slots of one shard of the mesh and the samples that wait for them."""

    def __init__(self, slots: int):
        self.running: list[Sample | None] = [None] * slots
        self.held: list[np.ndarray] = [_NOTHING] * slots  # tokens whose keys and values a slot's cache begins with
        self.kept = [0] * slots  # how many of them nothing has overwritten
        self.last: list[Sample | None] = [None] * slots  # the sample of this call that ran last
        self.waiting: deque[Sample] = deque()
        self._left: Counter[int] = Counter()  # samples that wait, by request
        self._source: dict[int, int] = {}  # request with samples that wait -> a slot that was seen to hold its context

    @property
    def live(self) -> int:
        return sum(sample is not None for sample in self.running)

    def begin(self, waiting: deque[Sample], contexts: Sequence[np.ndarray]) -> None:
        """A new call with samples of its own."""
        self.waiting, self.last = waiting, [None] * len(self.last)
        self._left = Counter(sample.request for sample in waiting)
        found = {request: self.holder(contexts[request]) for request in self._left}
        self._source = {request: slot for request, slot in found.items() if slot is not None}

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
        while free and self.waiting:
            sample = self.waiting.popleft()
            needed, source = contexts[sample.request][:-1], self._source.get(sample.request)
            ready = [slot for slot in free if _begins_with(self.held[slot], needed)]
            slot = source if source in ready else self._least_wanted(ready, free)
            free.remove(slot)
            if slot not in ready:
                if source is None or not _begins_with(self.held[source], needed):
                    source = self.holder(contexts[sample.request])
                if sample.request in plan.prefills:
                    plan.prefills[sample.request].append(slot)
                elif source is not None:
                    plan.copies[slot] = source
                else:
                    plan.prefills[sample.request] = [slot]
            # What a slot gets by copy or prefill is no source for others before it has arrived.
            self.held[slot] = needed if slot in ready else _NOTHING
            self.running[slot] = self.last[slot] = plan.starts[slot] = sample
            self.kept[slot] = sys.maxsize
            self._left[sample.request] -= 1
        for slot, sample in plan.starts.items():
            self.held[slot] = contexts[sample.request][:-1]
            self._source[sample.request] = slot
        self._source = {request: slot for request, slot in self._source.items() if self._left[request]}
        return plan

    def _least_wanted(self, ready: list[int], free: list[int]) -> int:
        """A free slot, best one that is ready, that no waiting sample wants to continue from, if there is one."""
        wanted = set(self._source.values())
        return next((slot for slot in (*ready, *free) if slot not in wanted), (*ready, *free)[0])

    def forget(self, capacity: int) -> None:
        """From now on the cache keeps ``capacity`` positions of a row that rests."""
        self.kept = [min(kept, capacity) for kept in self.kept]
        self.held = [held[:capacity] for held in self.held]

    def resize(self, slots: int) -> list[int]:
        """Changes to ``slots`` rows; returns which row each of them was, -1 for none. Live rows come first, then those
        that hold most."""
        order = sorted(range(len(self.running)), key=lambda slot: (self.running[slot] is None, -len(self.held[slot])))
        rows = (order + [-1] * slots)[:slots]
        self.held = [_NOTHING if row < 0 else self.held[row] for row in rows]
        self.kept = [0 if row < 0 else self.kept[row] for row in rows]
        self.last, self.running = ([None if row < 0 else x[row] for row in rows] for x in (self.last, self.running))
        moved = {row: slot for slot, row in enumerate(rows)}
        self._source = {request: moved[slot] for request, slot in self._source.items() if slot in moved}
        return rows


_NOTHING = np.zeros(0, np.int32)


def _begins_with(held: np.ndarray, needed: np.ndarray) -> bool:
    size = len(needed)
    if len(held) < size or not size:
        return not size
    return held[size - 1] == needed[-1] and bool((held[:size] == needed).all())


def distribute(requests: Sequence[Request], shards: Sequence[Shard], contexts: Sequence[np.ndarray]) -> None:
    """Gives every shard its samples: whole requests, to a shard that holds their context, else to that with fewest."""
    queues: list[deque[Sample]] = [deque() for _ in shards]
    index = 0
    for number, (request, context) in enumerate(zip(requests, contexts, strict=True)):
        holding = [queue for queue, shard in zip(queues, shards, strict=True) if shard.holder(context) is not None]
        queue = min(holding or queues, key=len)
        for sample in range(request.num_samples):
            queue.append(Sample(index, number, request.rollout_id + sample))
            index += 1
    for shard, queue in zip(shards, queues, strict=True):
        shard.begin(queue, contexts)
