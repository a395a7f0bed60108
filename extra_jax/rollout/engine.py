"""The sampler as the host sees it: requests in, rollouts out, by continuous batching.

A fixed number of slots decodes in chunks of tokens. Between chunks the host takes finished rows out and puts
waiting samples in; a prompt is prefilled once for all its samples. When nothing waits any more the slots are
compacted, so that a few long rows do not decode at the cost of many.

Every process runs the same programs in lockstep on its own rows: what they do next follows from numbers that
all of them have gathered.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config
from extra_jax.parallel.processes import allgather, to_global, to_local
from extra_jax.parallel.sharding import batch_ways
from extra_jax.rollout import cache, decode
from extra_jax.rollout.sampling import ROUND_AS_WRITTEN
from extra_jax.rollout.schedule import Plan, Shard, distribute
from extra_jax.rollout.types import Request, Rollouts, SamplingParams, StopReason

Progress = Callable[[int, int, int], None]
"""Called with (finished, in flight, total) completions of this process."""

_PREFILL_ROWS = 4  # prompts a shard prefills at once
_SHORTEST = 64  # tokens; smaller lengths do not get programs of their own
_SHRINK = 4  # slots are compacted when this fraction of them would do


class Sampler:
    """Generates completions.

    Args:
        model_config: shape of the model.
        graphdef: of the model; parameters come with each call, in the rollout layout.
        mesh: rows are split over its data axes.
        params: how to draw.
        stop_ids: tokens that end a completion.
        seed: of the run.
        max_prompt_length: tokens; longer prompts are refused.
        slots: rows that decode at once, all devices together; rounded up to the data-parallel shards.
        chunk: tokens between two looks of the host.
        dtype: of activations and cache.
    """

    def __init__(
        self,
        model_config: Qwen3Config,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        *,
        params: SamplingParams,
        stop_ids: Sequence[int],
        seed: int,
        max_prompt_length: int,
        slots: int,
        chunk: int,
        dtype: str,
        scan: bool = True,
    ):
        self.mesh, self.params, self.max_prompt_length, self.chunk = mesh, params, max_prompt_length, chunk
        self.shards = batch_ways(mesh)
        self.shard_slots = -(-slots // self.shards)
        shards = self.shards

        def prefill(weights: nnx.State, slots: cache.Slots, prompts: jax.Array, source: jax.Array) -> cache.Slots:
            return decode.prefill(nnx.merge(graphdef, weights), slots, prompts, source, shards, dtype)

        def decode_chunk(
            weights: nnx.State, slots: cache.Slots, resets: decode.Resets, step: jax.Array
        ) -> tuple[cache.Slots, decode.Chunk]:
            model = nnx.merge(graphdef, weights)
            return decode.decode_chunk(
                model, slots, resets, seed, step,
                length=chunk, params=params, stop_ids=tuple(stop_ids), dtype=dtype,
            )  # fmt: skip

        self._empty = jax.jit(partial(cache.empty_slots, model_config, dtype=dtype, scan=scan), static_argnums=(0, 1))
        self._resize = jax.jit(cache.resize, static_argnums=1)
        self._compact = jax.jit(partial(cache.compact, shards=shards))
        self._clone = jax.jit(partial(cache.clone, shards=shards), static_argnums=2, donate_argnums=0)
        self._prefill = jax.jit(prefill, donate_argnums=1, compiler_options=ROUND_AS_WRITTEN)
        self._decode = jax.jit(decode_chunk, donate_argnums=1, compiler_options=ROUND_AS_WRITTEN)

    def generate(
        self, weights: nnx.State, requests: Sequence[Request], step: int, progress: Progress | None = None
    ) -> Rollouts:
        """Samples every request of this process; all processes call it together.

        Args:
            weights: in the rollout layout.
            requests: of this process.
            step: part of the identity of every draw.
            progress: told about finished rows between chunks.

        Raises:
            ExtraError: before anything runs, a prompt that is empty or longer than ``max_prompt_length``; later, a
                logit that is not finite, with rollout and position.
        """
        for request in requests:
            if not 0 < len(request.prompt_ids) <= self.max_prompt_length:
                raise ExtraError(
                    f"rollout {request.rollout_id}: prompt of {len(request.prompt_ids)} tokens; allowed are 1 to "
                    f"rollout.max_prompt_length={self.max_prompt_length}. Raise it or drop the problem"
                )
        with jax.set_mesh(self.mesh):
            return _Run(self, weights, requests, step, progress).rollouts()

    def compiled_programs(self) -> int:
        """Programs compiled so far; constant once every length and number of slots has occurred."""
        programs = (self._empty, self._resize, self._compact, self._clone, self._prefill, self._decode)
        return sum(program._cache_size() for program in programs)


class _Run:
    """One call of ``generate``: its slots, its schedule and what has come out so far."""

    def __init__(
        self,
        sampler: Sampler,
        weights: nnx.State,
        requests: Sequence[Request],
        step: int,
        progress: Progress | None,
    ):
        self.sampler, self.weights, self.requests, self.step, self.progress = sampler, weights, requests, step, progress
        total = sum(request.num_samples for request in requests)
        local_shards = sampler.shards // jax.process_count()
        longest = -(-int(allgather(np.array([total])).max()) // local_shards)  # samples of the fullest shard, about
        self.shard_slots = min(sampler.shard_slots, max(longest, 1))
        self.local = [Shard(self.shard_slots) for _ in range(local_shards)]
        for shard, queue in zip(self.local, distribute(requests, local_shards), strict=True):
            shard.waiting = queue
        self.slots: cache.Slots | None = None
        self.length = np.zeros((local_shards, self.shard_slots), np.int64)  # tokens of each row, the last included
        cap = sampler.params.max_completion_length
        self.tokens = np.zeros((total, cap), np.int32)
        self.logprobs = np.zeros((total, cap), np.float32)
        self.entropies = np.zeros((total, cap), np.float32)
        self.lengths = np.zeros(total, np.int32)
        self.stopped = np.zeros(total, bool)
        self.finished = 0

    def rollouts(self) -> Rollouts:
        """Decodes until nothing waits and nothing runs in any process."""
        while True:
            plans = [shard.plan() for shard in self.local]
            for row, plan in enumerate(plans):
                for slot, sample in plan.starts.items():
                    self.length[row, slot] = len(self.requests[sample.request].prompt_ids)
            agreed = self._agree(plans)
            if not agreed["live"]:
                break
            self._make_room(agreed)
            for start in range(0, agreed["prefills"], _PREFILL_ROWS):
                self._prefill([list(plan.prefills.items())[start : start + _PREFILL_ROWS] for plan in plans], agreed)
            if agreed["copies"]:
                self._copy(plans, agreed)
            resets, step = self._resets(plans), np.uint32(self.step)
            self.slots, chunk = self.sampler._decode(self.weights, self.slots, resets, step)
            self._collect(to_local(chunk))
            if self.progress:
                live = sum(shard.live for shard in self.local)
                self.progress(self.finished, live, len(self.lengths))
        return self._result()

    def _agree(self, plans: list[Plan]) -> dict[str, int]:
        """The largest of each number over all shards of all processes."""
        running = np.array([[sample is not None for sample in shard.running] for shard in self.local])
        started = [sample.request for plan in plans for sample in plan.starts.values()]
        numbers = {
            "live": running.sum(axis=1).max(),
            "waiting": max(len(shard.waiting) for shard in self.local),
            "longest": (self.length * running).max(),
            "prompt": max((len(self.requests[request].prompt_ids) for request in started), default=0),
            "prefills": max(len(plan.prefills) for plan in plans),
            "copies": max(len(plan.copies) for plan in plans),
            "starts": max(len(plan.starts) for plan in plans),
        }
        largest = allgather(np.array([list(numbers.values())], np.int64)).max(axis=0)
        return dict(zip(numbers, largest.tolist(), strict=True))

    def _make_room(self, agreed: dict[str, int]) -> None:
        """Makes, grows, shrinks or compacts the slots to what the next chunk needs."""
        sampler = self.sampler
        capacity = self._bucket(max(agreed["longest"], self._bucket(agreed["prompt"])) + sampler.chunk)
        if self.slots is None:
            self.slots = sampler._empty(self.shard_slots * sampler.shards, capacity)
        elif capacity > self.slots.capacity or 2 * capacity <= self.slots.capacity:
            self.slots = sampler._resize(self.slots, capacity)
        fewer = self.shard_slots // _SHRINK
        if not agreed["waiting"] and not agreed["starts"] and agreed["live"] <= fewer:
            rows = np.array([shard.compact(fewer) for shard in self.local])
            self.length = np.where(rows < 0, 0, np.take_along_axis(self.length, rows.clip(min=0), axis=1))
            self.shard_slots = fewer
            self.slots = sampler._compact(self.slots, self._global(rows.ravel()))

    def _prefill(self, batches: list[list[tuple[int, list[int]]]], agreed: dict[str, int]) -> None:
        """Prefills up to ``_PREFILL_ROWS`` prompts in each shard and hands them to the slots that wait."""
        width = self._bucket(agreed["prompt"])
        rows = min(_PREFILL_ROWS, agreed["prefills"])
        prompts = np.zeros((len(self.local), _PREFILL_ROWS, width), np.int32)
        source = np.full((len(self.local), self.shard_slots), cache.KEEP, np.int32)
        for shard, batch in enumerate(batches):
            for row, (request, slots) in enumerate(batch):
                ids = self.requests[request].prompt_ids[:-1]  # the slot feeds the last token itself
                prompts[shard, row, : len(ids)] = ids
                source[shard, slots] = row
        prompts = prompts[:, : 1 if rows == 1 else _PREFILL_ROWS].reshape(-1, width)
        self.slots = self.sampler._prefill(
            self.weights, self.slots, self._global(prompts), self._global(source.ravel())
        )

    def _copy(self, plans: list[Plan], agreed: dict[str, int]) -> None:
        """Copies prompts from slots that hold them."""
        source = self._rows(lambda shard, slot: plans[shard].copies.get(slot, cache.KEEP))
        self.slots = self.sampler._clone(self.slots, source, self._bucket(agreed["prompt"]))

    def _resets(self, plans: list[Plan]) -> decode.Resets:
        def column(value: Callable, dtype: type) -> jax.Array:
            def at(shard: int, slot: int) -> int:
                sample = plans[shard].starts.get(slot)
                return 0 if sample is None else value(sample, self.requests[sample.request].prompt_ids)

            return self._rows(at, dtype)

        cap = self.sampler.params.max_completion_length
        return decode.Resets(
            chosen=column(lambda sample, prompt: True, np.bool_),
            token=column(lambda sample, prompt: prompt[-1], np.int32),
            position=column(lambda sample, prompt: len(prompt) - 1, np.int32),
            limit=column(lambda sample, prompt: len(prompt) + cap, np.int32),
            rollout_id=column(lambda sample, prompt: sample.rollout_id, np.uint32),
        )

    def _collect(self, chunk: decode.Chunk) -> None:
        """Writes down what the chunk drew and frees the slots of finished rows."""
        shape = (len(self.local), self.shard_slots)
        counts, stopped, finite = (x.reshape(shape) for x in (chunk.counts, chunk.stopped, chunk.finite))
        columns = [x.reshape(*shape, -1) for x in (chunk.tokens, chunk.logprobs, chunk.entropies)]
        for row, shard in enumerate(self.local):
            for slot, sample in enumerate(shard.running):
                if sample is None:
                    continue
                index, count = sample.index, counts[row, slot]
                start = self.lengths[index]
                if not finite[row, slot]:
                    raise ExtraError(
                        f"rollout {sample.rollout_id} of step {self.step}: a logit is not finite at completion token "
                        f"{start} to {start + count}; the weights of this step are broken"
                    )
                for target, source in zip((self.tokens, self.logprobs, self.entropies), columns, strict=True):
                    target[index, start : start + count] = source[row, slot, :count]
                self.lengths[index] += count
                self.length[row, slot] += count
                self.stopped[index] = stopped[row, slot]
                if stopped[row, slot] or self.lengths[index] == self.tokens.shape[1]:
                    shard.running[slot] = None
                    self.finished += 1

    def _bucket(self, length: int) -> int:
        """The next length that programs are compiled for: powers of two, at most what a row can ever need."""
        cap = self.sampler.max_prompt_length + self.sampler.params.max_completion_length + self.sampler.chunk
        size = _SHORTEST
        while size < length:
            size *= 2
        return min(size, cap)

    def _rows(self, value: Callable[[int, int], int], dtype: type = np.int32) -> jax.Array:
        """``[S]`` global array from ``value(shard, slot)``."""
        shards, slots = len(self.local), self.shard_slots
        return self._global(np.array([value(shard, slot) for shard in range(shards) for slot in range(slots)], dtype))

    def _global(self, rows: np.ndarray) -> jax.Array:
        return to_global(self.sampler.mesh, rows)

    def _result(self) -> Rollouts:
        requests, counts = self.requests, [request.num_samples for request in self.requests]
        return Rollouts(
            rollout_ids=np.array([r.rollout_id + i for r in requests for i in range(r.num_samples)], np.int64),
            prompt_index=np.repeat(np.arange(len(requests), dtype=np.int32), counts),
            prompt_ids=[np.asarray(r.prompt_ids, np.int32) for r in requests for _ in range(r.num_samples)],
            tokens=self.tokens,
            lengths=self.lengths,
            logprobs=self.logprobs,
            entropies=self.entropies,
            stop_reasons=[StopReason.STOP_TOKEN if stopped else StopReason.LENGTH for stopped in self.stopped],
        )
