"""The sampler as the host sees it: requests in, rollouts out, by continuous batching.

A fixed number of slots decodes in chunks of tokens. Between chunks the host takes finished rows out and puts waiting
samples in (``session.py``). Everything that can be refused is refused here, before anything runs.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
from flax import nnx
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config
from extra_jax.model.qwen3 import KeysValues
from extra_jax.parallel.sharding import batch_ways
from extra_jax.rollout import cache, decode, memory
from extra_jax.rollout.sampling import ROUND_AS_WRITTEN
from extra_jax.rollout.session import Finished, Progress, Session
from extra_jax.rollout.types import Request, Rollouts, SamplingParams

_SHORTEST = 64  # tokens; smaller lengths do not get programs of their own
_ROW_LEVELS = (16, 12, 8, 4, 2, 1)  # sixteenths of the slots that programs are compiled for
_FEWEST = 4  # rows of such a program; below that there is one more, for the last rollout


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
        scan: whether the layers of the model are stacked.
        detokenize: token ids to text; needed for stop strings only.

    Raises:
        ExtraError: the longest sequence does not fit the model, or the slots do not fit the memory.
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
        detokenize: Callable[[Sequence[int]], str] | None = None,
    ):
        self.mesh, self.params, self.max_prompt_length, self.chunk = mesh, params, max_prompt_length, chunk
        self.shards = batch_ways(mesh)
        self.shard_slots = -(-slots // self.shards)
        fewest = min(_FEWEST, self.shard_slots)
        self._row_levels = {1, *(max(-(-self.shard_slots * part // 16), fewest) for part in _ROW_LEVELS)}
        self.detokenize = detokenize
        self.longest = max_prompt_length + params.max_completion_length
        memory.check_context(model_config, self.longest)
        capacity = cache.whole_pages(self.longest + chunk)
        memory.check_slots(model_config, mesh, self.shard_slots * self.shards, capacity, dtype)
        shards = self.shards

        def prefill(weights: nnx.State, contexts: jax.Array) -> KeysValues:
            return decode.prefill(nnx.merge(graphdef, weights), contexts, dtype)

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
        self._select = jax.jit(partial(cache.select, shards=shards))
        self._clone = jax.jit(partial(cache.clone, shards=shards), static_argnums=2, donate_argnums=0)
        self._load = jax.jit(partial(cache.load, shards=shards), donate_argnums=0)
        self._prefill = jax.jit(prefill, compiler_options=ROUND_AS_WRITTEN)
        self._decode = jax.jit(decode_chunk, donate_argnums=1, compiler_options=ROUND_AS_WRITTEN)

    def generate(
        self,
        weights: nnx.State,
        requests: Sequence[Request],
        step: int,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> Rollouts:
        """Samples every request of this process; all processes call it together.

        Args:
            weights: in the rollout layout.
            requests: of this process.
            step: part of the identity of every draw.
            progress: told about finished rows between chunks.
            finished: given every completion as soon as it is there, while others decode.

        Raises:
            ExtraError: before anything runs, a prompt or prefix that is empty or too long; later, a logit that is not
                finite, with rollout and position.
        """
        return Session(self, weights, step, keep=False).generate(requests, progress, finished)

    def session(self, weights: nnx.State, step: int) -> Session:
        """Several calls of ``generate`` with the same weights and step, whose slots stay: a request that continues a
        rollout of an earlier call is prefilled only where no slot holds its beginning any more."""
        return Session(self, weights, step, keep=True)

    def check(self, requests: Sequence[Request]) -> None:
        """Raises ``ExtraError`` for a request that cannot be served."""
        cap = self.params.max_completion_length
        for request in requests:
            if not 0 < len(request.prompt_ids) <= self.max_prompt_length:
                raise ExtraError(
                    f"rollout {request.rollout_id}: prompt of {len(request.prompt_ids)} tokens; allowed are 1 to "
                    f"rollout.max_prompt_length={self.max_prompt_length}. Raise it or drop the problem"
                )
            if len(request.prefix_ids) >= cap:
                raise ExtraError(
                    f"rollout {request.rollout_id}: prefix of {len(request.prefix_ids)} tokens leaves nothing of the "
                    f"{cap} tokens of a completion (rollout.max_completion_length). Cut the prefix earlier"
                )

    def capacity_for(self, length: int) -> int:
        """Positions a row gets for ``length`` tokens: 1, 2, 3, 4, 6, 8, 12 ... times the shortest, at most what a row
        can ever need."""
        size = _SHORTEST
        while size < length:
            halfway = size // 2 * 3
            size = halfway if length <= halfway and size > _SHORTEST else 2 * size
        return min(size, self.longest + self.chunk)

    def rows_for(self, samples: int) -> int:
        """Rows a shard computes for ``samples`` of them: the smallest of the few numbers that are compiled."""
        return min((rows for rows in self._row_levels if rows >= samples), default=self.shard_slots)

    def rows_below(self, rows: int) -> int:
        """The next smaller number of rows that is compiled, 0 for none."""
        return max((level for level in self._row_levels if level < rows), default=0)

    def compiled_programs(self) -> int:
        """Programs compiled so far; constant once every length and number of rows has occurred."""
        programs = (self._empty, self._resize, self._select, self._clone, self._load, self._prefill, self._decode)
        return sum(program._cache_size() for program in programs)
