"""One call of ``generate``: slots that decode, and the host that fills them.

Every process runs the same programs in lockstep on its own rows: what they do next follows from numbers that all of
them have gathered. What a chunk drew is written down while the next one runs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import allgather, to_global, to_local
from extra_jax.rollout import cache, decode
from extra_jax.rollout.output import Output
from extra_jax.rollout.programs import PREFILL_ROWS, SamplerPrograms, Sizes
from extra_jax.rollout.schedule import Plan, Shard, distribute
from extra_jax.rollout.types import Counters, Rollouts, StopReason

Progress = Callable[[int, int, int], None]
"""Called with (finished, in flight, total) completions of this process."""

Finished = Callable[[int, np.ndarray], None]
"""Called with the row of a completion in the result and its token ids."""

_COPY_ROWS = 8  # rows a shard copies at once: about as many as a chunk sets free


class _Agreed(NamedTuple):
    """The largest of each number over all shards of all processes: what the next programs are sized by."""

    live: int
    waiting: int
    longest: int
    context: int
    prefills: int
    copies: int
    starts: int
    loads: int


class Session:
    """The slots of one call, its schedule, and what has been drawn so far.

    ``output`` holds the requests and is filled; ``mesh`` is the one in scope. The other arguments are those of
    ``engine.Sampler.generate``.
    """

    def __init__(
        self,
        programs: SamplerPrograms,
        sizes: Sizes,
        mesh: Mesh,
        weights: nnx.State,
        step: int,
        output: Output,
        progress: Progress | None,
        finished: Finished | None,
    ):
        self.programs, self.sizes, self.mesh, self.weights, self.step = programs, sizes, mesh, weights, step
        self.output, self.progress, self.finished = output, progress, finished
        self.contexts, groups = output.unfinished()
        self.identities = output.identities(step)  # [R, 2] uint32
        self.begun = int(output.lengths.sum())  # tokens that need no decoding
        queues = distribute(groups, sizes.shards // jax.process_count())
        samples = max(len(queue) for queue in queues)
        self.rows = sizes.rows_for(int(allgather(np.array([samples])).max()))  # of a shard
        self.local = [Shard(self.rows, queue) for queue in queues]
        self.slots: cache.Slots | None = None
        self.length = np.zeros((len(self.local), self.rows), np.int64)  # tokens of each row, the last included
        self.ended = np.zeros((len(self.local), self.rows), bool)  # by a stop string, which the device cannot see
        self.unchanged: dict[int, decode.Resets] = {}  # by rows: no row begins or ends
        self.waited = 0.0
        self.slot_steps = self.prefilled = 0

    def run(self) -> Rollouts:
        """Decodes until nothing waits and nothing runs in any process."""
        began, previous = time.perf_counter(), _Drawn()
        while True:
            plans = [shard.plan(self.contexts) for shard in self.local]
            for row, plan in enumerate(plans):
                for slot, sample in plan.starts.items():
                    self.length[row, slot] = len(self.contexts[sample.request])
            # A process without work of its own goes on as long as any other has some: programs run in lockstep.
            agreed = self._agree(plans)
            if not agreed.live:
                break
            self._make_room(agreed)
            # Copies come first, because a prefill may overwrite a slot that is copied from.
            self._copy(plans, agreed)
            for start in range(0, agreed.prefills, PREFILL_ROWS):
                self._prefill([list(plan.prefills.items())[start : start + PREFILL_ROWS] for plan in plans], agreed)
            chunk = self._decode(plans)
            # The device decodes this chunk while the host writes down the one before it.
            self._write(previous)
            previous = self._finish(chunk)
        self._write(previous)
        wall = time.perf_counter() - began
        tokens = int(self.output.lengths.sum()) - self.begun
        return self.output.rollouts(Counters(tokens, self.slot_steps, self.prefilled, wall, wall - self.waited))

    def _agree(self, plans: list[Plan]) -> _Agreed:
        running = np.array([[sample is not None for sample in shard.running] for shard in self.local], bool)
        started = [sample.request for plan in plans for sample in plan.starts.values()]
        numbers = _Agreed(
            live=running.sum(axis=1).max(),
            waiting=max(len(shard.waiting) for shard in self.local),
            longest=(self.length * running).max(initial=0),
            context=max((len(self.contexts[request]) for request in started), default=0),
            prefills=max(len(plan.prefills) for plan in plans),
            copies=max(len(plan.copies) for plan in plans),
            starts=max(len(plan.starts) for plan in plans),
            loads=max((len(slots) for plan in plans for slots in plan.prefills.values()), default=0),
        )
        return _Agreed(*allgather(np.array([numbers], np.int64)).max(axis=0).tolist())

    def _make_room(self, agreed: _Agreed) -> None:
        """Makes, grows or shrinks the slots to what the next chunk needs."""
        sizes = self.sizes
        capacity = sizes.capacity_for(max(agreed.longest, sizes.capacity_for(agreed.context)) + sizes.chunk)
        if self.slots is None:
            self.slots = self.programs.empty(self.rows * sizes.shards, capacity)
        elif capacity > self.slots.capacity or 2 * capacity <= self.slots.capacity:
            self.slots = self.programs.resize(self.slots, capacity)
        for shard in self.local:
            shard.forget(self.slots.capacity - sizes.chunk)  # a row at rest is written to at its end
        # Nothing will need the free rows again: a few long rows should not decode at the cost of many.
        if not agreed.waiting and not agreed.starts:
            while (rows := sizes.rows_below(self.rows)) >= agreed.live:
                self._keep_rows(rows)

    def _keep_rows(self, rows: int) -> None:
        """Fewer rows; the live ones stay."""
        source = np.array([shard.keep(rows) for shard in self.local], np.int32)
        self.slots = self.programs.select(self.slots, self._global(source.ravel()))
        self.length, self.ended = (np.take_along_axis(x, source, axis=1) for x in (self.length, self.ended))
        self.rows = rows

    def _prefill(self, batches: list[list[tuple[int, list[int]]]], agreed: _Agreed) -> None:
        """Prefills up to ``PREFILL_ROWS`` contexts in each shard and hands them to the slots that wait."""
        width = self.sizes.capacity_for(agreed.context)
        rows = 1 if agreed.prefills == 1 else PREFILL_ROWS
        contexts = np.zeros((len(self.local), rows, width), np.int32)
        copies: list[list[tuple[int, int]]] = [[] for _ in self.local]
        for shard, batch in enumerate(batches):
            for row, (request, slots) in enumerate(batch):
                ids = self.contexts[request][:-1]  # the slot feeds the last token itself
                contexts[shard, row, : len(ids)] = ids
                copies[shard] += [(row, slot) for slot in slots]
                self.prefilled += len(ids)
        new = self.programs.prefill(self.weights, self._global(contexts.reshape(-1, width)))
        for part in self._copies(copies, rows * agreed.loads):
            self.slots = self.programs.load(self.slots, new, part)

    def _copy(self, plans: list[Plan], agreed: _Agreed) -> None:
        """Copies contexts from slots that hold them, in the order of the plan: a slot is read before it is written."""
        copies = [[(source, slot) for slot, source in plan.copies.items()] for plan in plans]
        length = self.sizes.capacity_for(agreed.context)
        for part in self._copies(copies, agreed.copies):
            self.slots = self.programs.clone(self.slots, part, length)

    def _copies(self, wanted: list[list[tuple[int, int]]], most: int) -> Iterator[cache.Copies]:
        """(source, target) of each shard, of which there are at most ``most`` in any process, in equal parts."""
        for start in range(0, most, _COPY_ROWS):
            pairs = np.full((len(wanted), _COPY_ROWS, 2), [0, cache.KEEP], np.int32)
            for shard, all in enumerate(wanted):
                part = all[start : start + _COPY_ROWS]
                pairs[shard, : len(part)] = np.array(part, np.int32).reshape(-1, 2)
            yield cache.Copies(self._global(pairs[..., 0].ravel()), self._global(pairs[..., 1].ravel()))

    def _resets(self, plans: list[Plan]) -> decode.Resets:
        """Rows that begin or end now. While there are none, which is most of the time at the end of a call, the device
        is given the same arrays again."""
        shape = len(self.local), self.rows
        changes = self.ended.any() or any(plan.starts for plan in plans)
        if not changes and self.rows in self.unchanged:
            return self.unchanged[self.rows]
        chosen, ended = np.zeros(shape, bool), self.ended.copy()
        token, position, limit = np.zeros((3, *shape), np.int32)
        noise, rollout_id = np.zeros((2, *shape), np.uint32)
        for shard, plan in enumerate(plans):
            for slot, sample in plan.starts.items():
                context, row = self.contexts[sample.request], (shard, slot)
                chosen[row], (noise[row], rollout_id[row]) = True, self.identities[sample.index]
                token[row], position[row] = context[-1], len(context) - 1
                limit[row] = len(context) + self.output.left(sample.index)
        columns = (chosen, ended, token, position, limit, noise, rollout_id)
        resets = decode.Resets(*(self._global(column.ravel()) for column in columns))
        self.ended[:] = False
        if not changes:
            self.unchanged[self.rows] = resets
        return resets

    def _decode(self, plans: list[Plan]) -> decode.Chunk:
        self.slots, chunk = self.programs.decode(self.weights, self.slots, self._resets(plans))
        jax.tree.map(lambda x: x.copy_to_host_async(), chunk)
        return chunk

    def _finish(self, chunk: decode.Chunk) -> "_Drawn":
        """Waits for a chunk and frees the slots of finished rows. What the chunk drew is written down later."""
        stop_strings = self.output.params.stop_strings
        with self._waiting():
            counts, stopped, broken = to_local((chunk.counts, chunk.stopped, chunk.broken))
            tokens: Any = to_local(chunk.drawn.token) if stop_strings else None
        self.slot_steps += len(counts) * int(counts.max())
        drawn = _Drawn(chunk.drawn)
        for number, shard in enumerate(self.local):
            for slot, sample in enumerate(shard.running):
                if sample is None:
                    continue
                row = number * len(shard.running) + slot
                count = int(counts[row])
                if broken[row] < count:
                    raise ExtraError(
                        f"rollout {sample.rollout_id} of step {self.step}: the logits at position "
                        f"{self.length[number, slot] + broken[row]} are not finite; the weights of this step are broken"
                    )
                reason = StopReason.STOP_TOKEN if stopped[row] else None
                if stop_strings and (cut := self.output.cut(sample.index, tokens[row, :count])) is not None:
                    reason = reason if cut == count and reason else StopReason.STOP_STRING
                    count, self.ended[number, slot] = cut, True
                drawn.pieces.append((sample.index, row, int(self.output.lengths[sample.index]), count))
                self.length[number, slot] += count
                if self.output.extend(sample.index, count, reason):
                    drawn.complete.append(sample.index)
                    shard.running[slot] = None
        if stop_strings:  # the next look needs the text
            self._write(drawn)
            return _Drawn()
        return drawn

    def _write(self, drawn: "_Drawn") -> None:
        """Writes down what a chunk drew, and calls ``finished`` and ``progress``."""
        if drawn.draw is not None:
            with self._waiting():
                draw = to_local(drawn.draw)
            rows, places, starts, counts = np.array(drawn.pieces, np.int64).reshape(-1, 4).T
            self.output.write(rows, starts, counts, decode.Draw(*(x[places] for x in draw)))
        if self.finished:
            for index in drawn.complete:
                self.finished(index, self.output.completion(index))
        if self.progress:
            self.progress(self.output.finished, sum(shard.live for shard in self.local), len(self.output.lengths))

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Counts the time of a block in which the host waits for the device."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def _global(self, rows: np.ndarray) -> jax.Array:
        return to_global(self.mesh, rows)


@dataclass
class _Drawn:
    """What a chunk drew, still on the device, and whose it is."""

    draw: decode.Draw | None = None  # [S, R] each; `None` when it has been written down
    # (row of the result, row of the chunk, first completion token, tokens)
    pieces: list[tuple[int, int, int, int]] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)  # rows of the result that ended
