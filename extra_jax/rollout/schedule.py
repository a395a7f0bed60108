"""Which sample runs in which slot: plain host bookkeeping, no arrays on devices.

Samples wait in the order of their requests. A slot that becomes free takes the next one; where its prompt
comes from is decided by what is at hand: the slot itself already holds it, another slot does (copy), or nobody
does (prefill).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

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
        copies: slot -> slot that holds its prompt.
        prefills: request -> slots that wait for its prompt.
    """

    starts: dict[int, Sample] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    prefills: dict[int, list[int]] = field(default_factory=dict)


class Shard:
    """The slots of one shard of the mesh and the samples that wait for them."""

    def __init__(self, slots: int):
        self.running: list[Sample | None] = [None] * slots
        self.holds: list[int | None] = [None] * slots  # request whose prompt a slot's cache begins with
        self.waiting: deque[Sample] = deque()

    @property
    def live(self) -> int:
        return sum(sample is not None for sample in self.running)

    def plan(self) -> Plan:
        """Assigns waiting samples to free slots."""
        plan = Plan()
        free = [slot for slot, sample in enumerate(self.running) if sample is None]
        while free and self.waiting:
            sample = self.waiting.popleft()
            own = next((slot for slot in free if self.holds[slot] == sample.request), None)
            slot = free[0] if own is None else own
            free.remove(slot)
            if own is None:
                if sample.request in plan.prefills:
                    plan.prefills[sample.request].append(slot)
                elif sample.request in self.holds:
                    plan.copies[slot] = self.holds.index(sample.request)
                else:
                    plan.prefills[sample.request] = [slot]
                self.holds[slot] = None  # not a source before its prompt has arrived
            plan.starts[slot] = sample
            self.running[slot] = sample
        for slot, sample in plan.starts.items():
            self.holds[slot] = sample.request
        return plan

    def compact(self, slots: int) -> list[int]:
        """Shrinks to ``slots`` rows; returns which row each of them was, -1 for none."""
        rows = [slot for slot, sample in enumerate(self.running) if sample is not None]
        rows += [-1] * (slots - len(rows))
        self.holds = [None if row < 0 else self.holds[row] for row in rows]
        self.running = [None if row < 0 else self.running[row] for row in rows]
        return rows


def distribute(requests: Sequence[Request], shards: int) -> list[deque[Sample]]:
    """Queues of samples for each shard: whole requests, each to the shard with the fewest samples so far."""
    queues: list[deque[Sample]] = [deque() for _ in range(shards)]
    index = 0
    for number, request in enumerate(requests):
        queue = min(queues, key=len)
        for sample in range(request.num_samples):
            queue.append(Sample(index, number, request.rollout_id + sample))
            index += 1
    return queues
