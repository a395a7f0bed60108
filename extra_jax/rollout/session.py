"""Slots that decode, and the host that fills them.

Every process runs the same programs in lockstep on its own rows: what they do next follows from numbers that all of
them have gathered. What a chunk drew is written down while the next one runs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import allgather, to_global, to_local
from extra_jax.rollout import cache, decode
from extra_jax.rollout.output import Output
from extra_jax.rollout.schedule import Plan, Shard, distribute
from extra_jax.rollout.types import Counters, Request, Rollouts, StopReason

if TYPE_CHECKING:
    from extra_jax.rollout.engine import Sampler

Progress = Callable[[int, int, int], None]
"""Called with (finished, in flight, total) completions of this process."""

Finished = Callable[[int, np.ndarray], None]
"""Called with the row of a completion in the result and its token ids."""

PREFILL_ROWS = 4  # contexts a shard prefills at once
_COPY_ROWS = 8  # rows a shard copies at once: about as many as a chunk sets free


class Session:
    """Slots with their contents, for one set of weights.

    Args:
        sampler: whose programs run.
        weights: in the rollout layout.
        step: part of the identity of every draw.
        keep: whether slots outlive a call. Otherwise they are given up when nothing waits for them any more, so that a
            few long rows do not decode at the cost of many.
    """

    def __init__(self, sampler: "Sampler", weights: nnx.State, step: int, keep: bool):
        self.sampler, self.weights, self.step, self.keep = sampler, weights, step, keep
        self.local = [Shard(0) for _ in range(sampler.shards // jax.process_count())]
        self.slots: cache.Slots | None = None
        self.rows = 0  # of a shard

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None, finished: Finished | None = None
    ) -> Rollouts:
        """As ``Sampler.generate``."""
        self.sampler.check(requests)
        with jax.set_mesh(self.sampler.mesh):
            return _Call(self, requests, progress, finished).run()


class _Call:
    """One call of ``generate``: its schedule and what has come out so far."""

    def __init__(
        self, session: Session, requests: Sequence[Request], progress: Progress | None, finished: Finished | None
    ):
        self.session, self.sampler, self.local = session, session.sampler, session.local
        self.contexts = [np.array([*request.prompt_ids, *request.prefix_ids], np.int32) for request in requests]
        self.requests, self.progress, self.finished = requests, progress, finished
        self.output = Output(requests, self.sampler.params, self.sampler.detokenize)
        distribute(requests, self.local, self.contexts)
        self.length = np.zeros((len(self.local), session.rows), np.int64)  # tokens of each row, the last included
        self.ended = np.zeros((len(self.local), session.rows), bool)  # by a stop string, which the device cannot see
        self.unchanged: dict[int, decode.Resets] = {}  # by rows: no row begins or ends
        self.waited = 0.0
        self.slot_steps = self.prefilled = self.reused = 0

    def run(self) -> Rollouts:
        """Decodes until nothing waits and nothing runs in any process."""
        began, drawn = time.perf_counter(), _Drawn()
        self._rows_at_first()
        while True:
            plans = [shard.plan(self.contexts) for shard in self.local]
            for row, plan in enumerate(plans):
                for slot, sample in plan.starts.items():
                    self.length[row, slot] = len(self.contexts[sample.request])
            agreed = self._agree(plans)
            if not agreed["live"]:
                break
            self._make_room(agreed)
            self._copy(plans, agreed)  # before a prefill overwrites what is copied
            for start in range(0, agreed["prefills"], PREFILL_ROWS):
                self._prefill([list(plan.prefills.items())[start : start + PREFILL_ROWS] for plan in plans], agreed)
            self._count(plans)
            chunk = self._decode(plans)
            self._write(drawn)
            drawn = self._finish(chunk)
        self._write(drawn)
        self._settle()
        wall = time.perf_counter() - began
        counters = Counters(
            int(self.output.lengths.sum()), self.slot_steps, self.prefilled, self.reused, wall, wall - self.waited
        )
        return self.output.rollouts(counters)

    def _agree(self, plans: list[Plan]) -> dict[str, int]:
        """The largest of each number over all shards of all processes."""
        running = np.array([[sample is not None for sample in shard.running] for shard in self.local], bool)
        started = [sample.request for plan in plans for sample in plan.starts.values()]
        numbers = {
            "live": running.sum(axis=1).max(),
            "waiting": max(len(shard.waiting) for shard in self.local),
            "longest": (self.length * running).max(initial=0),
            "context": max((len(self.contexts[request]) for request in started), default=0),
            "prefills": max(len(plan.prefills) for plan in plans),
            "copies": max(len(plan.copies) for plan in plans),
            "starts": max(len(plan.starts) for plan in plans),
            "loads": max((len(slots) for plan in plans for slots in plan.prefills.values()), default=0),
        }
        largest = allgather(np.array([list(numbers.values())], np.int64)).max(axis=0)
        return dict(zip(numbers, largest.tolist(), strict=True))

    def _rows_at_first(self) -> None:
        """As many rows as the call can use; those of an earlier call keep what they hold."""
        samples = max(len(shard.waiting) for shard in self.local)
        rows = self.sampler.rows_for(int(allgather(np.array([samples])).max()))
        if rows > self.session.rows:
            self._set_rows(rows)

    def _set_rows(self, rows: int) -> None:
        """More or fewer rows; the live ones stay."""
        session = self.session
        source = np.array([shard.resize(rows) for shard in self.local], np.int32)
        if session.slots is not None:
            session.slots = self.sampler._select(session.slots, self._global(source.ravel()))
        before = np.pad(self.length, ((0, 0), (0, 1))), np.pad(self.ended, ((0, 0), (0, 1)))  # -1 is a row of zeros
        self.length, self.ended = (np.take_along_axis(x, source, axis=1) for x in before)
        session.rows = rows

    def _make_room(self, agreed: dict[str, int]) -> None:
        """Makes, grows or shrinks the slots to what the next chunk needs."""
        sampler, session = self.sampler, self.session
        capacity = sampler.capacity_for(max(agreed["longest"], sampler.capacity_for(agreed["context"])) + sampler.chunk)
        if session.slots is None:
            session.slots = sampler._empty(session.rows * sampler.shards, capacity)
        elif capacity > session.slots.capacity or 2 * capacity <= session.slots.capacity:
            session.slots = sampler._resize(session.slots, capacity)
        for shard in self.local:
            shard.forget(session.slots.capacity - sampler.chunk)  # a row at rest is written to at its end
        if not agreed["waiting"] and not agreed["starts"] and not session.keep:
            while (rows := sampler.rows_below(session.rows)) >= agreed["live"]:
                self._set_rows(rows)

    def _prefill(self, batches: list[list[tuple[int, list[int]]]], agreed: dict[str, int]) -> None:
        """Prefills up to ``PREFILL_ROWS`` contexts in each shard and hands them to the slots that wait."""
        width = self.sampler.capacity_for(agreed["context"])
        rows = 1 if agreed["prefills"] == 1 else PREFILL_ROWS
        contexts = np.zeros((len(self.local), rows, width), np.int32)
        copies: list[list[tuple[int, int]]] = [[] for _ in self.local]
        for shard, batch in enumerate(batches):
            for row, (request, slots) in enumerate(batch):
                ids = self.contexts[request][:-1]  # the slot feeds the last token itself
                contexts[shard, row, : len(ids)] = ids
                copies[shard] += [(row, slot) for slot in slots]
                self.prefilled += len(ids)
        new = self.sampler._prefill(self.session.weights, self._global(contexts.reshape(-1, width)))
        for part in self._copies(copies, rows * agreed["loads"]):
            self.session.slots = self.sampler._load(self.session.slots, new, part)

    def _copy(self, plans: list[Plan], agreed: dict[str, int]) -> None:
        """Copies contexts from slots that hold them, in the order of the plan: a slot is read before it is written."""
        copies = [[(source, slot) for slot, source in plan.copies.items()] for plan in plans]
        length = self.sampler.capacity_for(agreed["context"])
        for part in self._copies(copies, agreed["copies"]):
            self.session.slots = self.sampler._clone(self.session.slots, part, length)

    def _copies(self, wanted: list[list[tuple[int, int]]], most: int) -> Iterator[cache.Copies]:
        """(source, target) of each shard, of which there are at most ``most`` in any process, in equal parts."""
        for start in range(0, most, _COPY_ROWS):
            pairs = np.full((len(wanted), _COPY_ROWS, 2), [0, cache.KEEP], np.int32)
            for shard, all in enumerate(wanted):
                part = all[start : start + _COPY_ROWS]
                pairs[shard, : len(part)] = np.array(part, np.int32).reshape(-1, 2)
            yield cache.Copies(self._global(pairs[..., 0].ravel()), self._global(pairs[..., 1].ravel()))

    def _count(self, plans: list[Plan]) -> None:
        for plan in plans:
            computed = {slots[0] for slots in plan.prefills.values()}
            self.reused += sum(
                len(self.contexts[sample.request]) - 1 for slot, sample in plan.starts.items() if slot not in computed
            )

    def _resets(self, plans: list[Plan]) -> decode.Resets:
        """Rows that begin or end now. While there are none, which is most of the time at the end of a call, the device
        is given the same arrays again."""
        shape = len(self.local), self.session.rows
        changes = self.ended.any() or any(plan.starts for plan in plans)
        if not changes and shape[1] in self.unchanged:
            return self.unchanged[shape[1]]
        chosen, ended, rollout_id = np.zeros(shape, bool), self.ended.copy(), np.zeros(shape, np.uint32)
        token, position, limit = np.zeros((3, *shape), np.int32)
        for shard, plan in enumerate(plans):
            for slot, sample in plan.starts.items():
                context, row = self.contexts[sample.request], (shard, slot)
                chosen[row], rollout_id[row] = True, sample.rollout_id
                token[row], position[row] = context[-1], len(context) - 1
                prompt = self.requests[sample.request].prompt_ids
                limit[row] = len(prompt) + self.sampler.params.max_completion_length
        columns = (chosen, ended, token, position, limit, rollout_id)
        resets = decode.Resets(*(self._global(column.ravel()) for column in columns))
        self.ended[:] = False
        if not changes:
            self.unchanged[shape[1]] = resets
        return resets

    def _decode(self, plans: list[Plan]) -> decode.Chunk:
        session = self.session
        session.slots, chunk = self.sampler._decode(
            session.weights, session.slots, self._resets(plans), np.uint32(session.step)
        )
        jax.tree.map(lambda x: x.copy_to_host_async(), chunk)
        return chunk

    def _finish(self, chunk: decode.Chunk) -> "_Drawn":
        """Waits for a chunk and frees the slots of finished rows. What the chunk drew is written down later."""
        stop_strings = self.sampler.params.stop_strings
        with self._waiting():
            counts, stopped, broken = to_local((chunk.counts, chunk.stopped, chunk.broken))
            tokens = to_local(chunk.drawn.token) if stop_strings else None
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
                        f"rollout {sample.rollout_id} of step {self.session.step}: the logits at position "
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
        """Writes down what a chunk drew, and tells who asked to be told."""
        if drawn.draw is not None:
            with self._waiting():
                draw = to_local(drawn.draw)
            for index, row, start, count in drawn.pieces:
                self.output.write(index, start, jax.tree.map(lambda x, row=row, count=count: x[row, :count], draw))
        if self.finished:
            for index in drawn.complete:
                self.finished(index, self.output.completion(index))
        if self.progress:
            self.progress(self.output.finished, sum(shard.live for shard in self.local), len(self.output.lengths))

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Time in here is the device's."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def _settle(self) -> None:
        """What the slots hold at the end: everything but the last token of the sample that each ran last."""
        for shard in self.local:
            for slot, sample in enumerate(shard.last):
                if sample is not None:
                    ids = np.concatenate([self.contexts[sample.request], self.output.completion(sample.index)])
                    shard.held[slot] = ids[:-1][: shard.kept[slot]]

    def _global(self, rows: np.ndarray) -> jax.Array:
        return to_global(self.sampler.mesh, rows)


@dataclass
class _Drawn:
    """What a chunk drew, still on the device, and whose it is.

    Attributes:
        draw: ``[S, R]`` each; ``None`` when it has been written down.
        pieces: (row of the result, row of the chunk, first completion token, tokens).
        complete: rows of the result that ended.
    """

    draw: decode.Draw | None = None
    pieces: list[tuple[int, int, int, int]] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
