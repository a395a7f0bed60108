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
from extra_jax.parallel.sharding import replicated
from extra_jax.parallel.shutdown import StopRequest
from extra_jax.rollout import cache, decode
from extra_jax.rollout.output import Output
from extra_jax.rollout.programs import COPY_ROWS, SamplerPrograms, Sizes, prefill_rows
from extra_jax.rollout.schedule import Plan, Shard, distribute
from extra_jax.rollout.types import Counters, Rollouts, StopReason

Progress = Callable[[int, int, int], bool | None]
"""Called with (finished, in flight, total) completions of this process; where it returns True in one of them, all
processes leave with ``StopRequest`` before the next chunk."""

Finished = Callable[[int, np.ndarray], None]
"""Called with the row of a completion in the result and its token ids."""


class _Agreed(NamedTuple):
    """The largest of each number over all shards of all processes: what the next programs are sized by."""

    live: int
    waiting: int
    tokens: int
    longest: int
    context: int
    prefills: int
    copies: int
    starts: int
    loads: int
    stop: int


class Session:
    """The slots of one call, its schedule, and what has been drawn so far.

    ``output`` holds the requests and is filled; ``mesh`` is the one in scope. The other arguments are
    those of ``engine.Sampler`` and its ``generate``.
    """

    def __init__(
        self,
        programs: SamplerPrograms,
        sizes: Sizes,
        mesh: Mesh,
        weights: nnx.State,
        seed: int,
        step: int,
        output: Output,
        progress: Progress | None,
        finished: Finished | None,
    ):
        self.programs, self.sizes, self.mesh, self.weights = programs, sizes, mesh, weights
        self.step = step
        self.seed = jax.make_array_from_process_local_data(replicated(mesh), np.array(seed, np.uint32))
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
        self.limit = np.zeros((len(self.local), self.rows), np.int64)  # tokens at which each row ends
        self.unchanged: dict[int, jax.Array] = {}  # by rows: no row begins or ends
        self.stop = False  # asked to leave
        self.waited = 0.0
        self.slot_steps = self.prefilled = 0

    def run(self) -> Rollouts:
        """Decodes until nothing waits and nothing runs in any process, or until one of them is asked to stop."""
        began, previous = time.perf_counter(), _Drawn()
        while True:
            plans = [shard.plan(self.contexts) for shard in self.local]
            for row, plan in enumerate(plans):
                for slot, sample in plan.starts.items():
                    self.length[row, slot] = len(self.contexts[sample.request])
                    self.limit[row, slot] = self.length[row, slot] + self.output.left(sample.index)
            # A process without work of its own goes on as long as any other has some: programs run in lockstep.
            agreed = self._agree(plans)
            if not agreed.live:
                break
            if agreed.stop:
                raise StopRequest
            self._make_room(agreed)
            # Copies come first, because a prefill may overwrite a slot that is copied from.
            self._copy(plans, agreed)
            self._prefill(plans, agreed)
            tokens = min(self.sizes.chunk, agreed.tokens)
            chunk = self._decode(plans, tokens)
            # The device decodes this chunk while the host writes down the one before it.
            self._write(previous)
            previous = self._finish(chunk, tokens)
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
            tokens=((self.limit - self.length) * running).max(initial=0),
            longest=(self.length * running).max(initial=0),
            context=max((len(self.contexts[request]) - 1 for request in started), default=0),
            prefills=max(len(plan.prefills) for plan in plans),
            copies=max(len(plan.copies) for plan in plans),
            starts=max(len(plan.starts) for plan in plans),
            loads=max((len(slots) for plan in plans for slots in plan.prefills.values()), default=0),
            stop=self.stop,
        )
        return _Agreed(*allgather(np.array([numbers], np.int64)).max(axis=0).tolist())

    def _make_room(self, agreed: _Agreed) -> None:
        """Makes, grows or shrinks the slots to what the next chunk needs."""
        sizes = self.sizes
        capacity = sizes.capacity_for(max(agreed.longest, sizes.width_for(agreed.context)) + sizes.chunk)
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
        kept = (np.take_along_axis(x, source, axis=1) for x in (self.length, self.limit, self.ended))
        self.length, self.limit, self.ended = kept
        self.rows = rows

    def _prefill(self, plans: list[Plan], agreed: _Agreed) -> None:
        """Prefills contexts, a few at once in each shard, and hands them to the slots that wait."""
        width, start = self.sizes.width_for(agreed.context), 0
        while start < agreed.prefills:
            rows = prefill_rows(width, agreed.prefills - start)
            contexts = np.zeros((len(self.local), rows, width), np.int32)
            copies: list[list[tuple[int, int]]] = [[] for _ in self.local]
            for shard, plan in enumerate(plans):
                for row, (request, slots) in enumerate(list(plan.prefills.items())[start : start + rows]):
                    ids = self.contexts[request][:-1]  # the slot feeds the last token itself
                    contexts[shard, row, : len(ids)] = ids
                    copies[shard] += [(row, slot) for slot in slots]
                    self.prefilled += len(ids)
            new = self.programs.prefill(self.weights, self._global(contexts.reshape(-1, width)))
            most = min(rows * agreed.loads, self.rows)
            for part in self._copies(copies, most, self.sizes.copied_rows(most, width)):
                self.slots = self.programs.load(self.slots, new, part)
            start += rows

    def _copy(self, plans: list[Plan], agreed: _Agreed) -> None:
        """Copies contexts from slots that hold them, in the order of the plan: a slot is read before it is written."""
        copies = [[(source, slot) for slot, source in plan.copies.items()] for plan in plans]
        length = self.sizes.width_for(agreed.context)
        for part in self._copies(copies, agreed.copies, COPY_ROWS):
            self.slots = self.programs.clone(self.slots, part, length)

    def _copies(self, wanted: list[list[tuple[int, int]]], most: int, size: int) -> Iterator[cache.Copies]:
        """(source, target) of each shard, of which there are at most ``most`` in any process, in parts of ``size``."""
        for start in range(0, most, size):
            pairs = np.full((len(wanted), size, 2), [0, cache.KEEP], np.int32)
            for shard, all in enumerate(wanted):
                part = all[start : start + size]
                pairs[shard, : len(part)] = np.array(part, np.int32).reshape(-1, 2)
            yield cache.Copies(self._global(pairs[..., 0].ravel()), self._global(pairs[..., 1].ravel()))

    def _resets(self, plans: list[Plan]) -> jax.Array:
        """``decode.Resets``: rows that begin or end now. While there are none, which is most of the time at the end of
        a call, the device is given the same array again."""
        shape = len(self.local), self.rows
        changes = self.ended.any() or any(plan.starts for plan in plans)
        if not changes and self.rows in self.unchanged:
            return self.unchanged[self.rows]
        columns = np.zeros((*shape, len(decode.Resets._fields)), np.uint32)
        columns[..., decode.Resets._fields.index("ended")] = self.ended
        for shard, plan in enumerate(plans):
            for slot, sample in plan.starts.items():
                context, limit = self.contexts[sample.request], self.limit[shard, slot]
                noise, rollout_id = self.identities[sample.index]
                row = decode.Resets(1, 0, context[-1], len(context) - 1, limit, noise, rollout_id)
                columns[shard, slot] = np.array(row, np.uint64)
        resets = self._global(columns.view(np.int32).reshape(-1, columns.shape[-1]))
        self.ended[:] = False
        if not changes:
            self.unchanged[self.rows] = resets
        return resets

    def _decode(self, plans: list[Plan], tokens: int) -> decode.Chunk:
        resets = self._resets(plans)
        self.slots, chunk = self.programs.decode(self.weights, self.slots, resets, self.seed, np.int32(tokens))
        jax.tree.map(lambda x: x.copy_to_host_async(), chunk)
        return chunk

    def _finish(self, chunk: decode.Chunk, steps: int) -> "_Drawn":
        """Waits for a chunk and frees the slots of finished rows. What the chunk drew is written down later."""
        stop_strings = self.output.params.stop_strings
        with self._waiting():
            counts, stopped, broken = to_local((chunk.counts, chunk.stopped, chunk.broken))
            tokens: Any = to_local(chunk.drawn.token) if stop_strings else None
        self.slot_steps += len(counts) * steps
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
            in_flight = sum(shard.live for shard in self.local)
            self.stop |= bool(self.progress(self.output.finished, in_flight, len(self.output.lengths)))

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
