"""The compiled programs of the sampler, and the few sizes that they are compiled for.

This is all of the sampler that others may call: a session runs the programs, and ``plan`` lowers them for chips that
need not exist.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
from flax import nnx

from extra_jax.model.config import Qwen3Config
from extra_jax.model.numerics import ROUND_AS_WRITTEN
from extra_jax.model.qwen3 import KeysValues
from extra_jax.rollout import cache, decode
from extra_jax.rollout.types import SamplingParams

_SHORTEST = 64  # positions of a cache row; fewer do not get programs of their own
_SHORTEST_CONTEXT = 16  # tokens, likewise
_PREFILL_TOKENS = 256  # that a shard prefills at once, where contexts are short
_COPY_TOKENS = 8192  # whose keys and values are copied at once, likewise
_ROW_LEVELS = (16, 12, 8, 4, 2, 1)  # sixteenths of the slots that programs are compiled for
_FEWEST = 4  # rows of such a program; below that there is one more, for the last rollout
COPY_ROWS = 8  # that a shard copies at once: about as many as a chunk sets free

_logger = logging.getLogger("extra_jax")


@dataclass(frozen=True)
class Sizes:
    """The sizes of arrays that programs are compiled for. They are few, so that after a while nothing is compiled."""

    shards: int  # ways that rows are split into
    slots: int  # rows of a shard that decode at once, at most
    chunk: int  # tokens between two looks of the host
    longest: int  # tokens of the longest prompt and completion together

    def capacity_for(self, length: int) -> int:
        """Positions a row gets for ``length`` tokens, at most what a row can ever need."""
        return min(_size_for(length, _SHORTEST), self.longest + self.chunk)

    def capacity_below(self, capacity: int) -> int:
        """The next smaller number of positions that a row may have to grow from; ``capacity`` where there is none."""
        smaller = {self.capacity_for(length) for length in range(1, capacity, _SHORTEST)}
        return max((size for size in smaller if size < capacity), default=capacity)

    def width_for(self, length: int) -> int:
        """Tokens that contexts of up to ``length`` are padded to."""
        return min(_size_for(length, _SHORTEST_CONTEXT), self.longest + self.chunk)

    def copied_rows(self, rows: int, width: int) -> int:
        """Rows of a shard that programs copy at once, of ``rows`` that want the first ``width`` positions of others."""
        return COPY_ROWS if rows <= COPY_ROWS else max(COPY_ROWS, min(_COPY_TOKENS // width, self.slots))

    def rows_for(self, samples: int) -> int:
        """Rows a shard computes for ``samples`` of them: the smallest of the few numbers that are compiled."""
        return min((rows for rows in self._row_levels if rows >= samples), default=self.slots)

    def rows_below(self, rows: int) -> int:
        """The next smaller number of rows that is compiled, 0 for none."""
        return max((level for level in self._row_levels if level < rows), default=0)

    @property
    def _row_levels(self) -> set[int]:
        fewest = min(_FEWEST, self.slots)
        return {1, *(max(-(-self.slots * part // 16), fewest) for part in _ROW_LEVELS)}


def prefill_rows(width: int, waiting: int) -> int:
    """Contexts that a shard prefills at once when ``waiting`` are left: one of two numbers, as each is compiled."""
    few = max(1, _SHORTEST // width)
    return few if waiting <= few else max(4, _PREFILL_TOKENS // width)


def _size_for(length: int, shortest: int) -> int:
    """1, 2, 3, 4, 6, 8, 12 ... times the shortest: few sizes, at most a third of them unused."""
    size = shortest
    while size < length:
        halfway = size // 2 * 3
        size = halfway if length <= halfway and size > shortest else 2 * size
    return size


@dataclass(frozen=True)
class SamplerPrograms:
    """Jitted functions, each compiled once for every size that occurs."""

    empty: jax.stages.Wrapped  # (rows, capacity) -> `Slots`
    resize: jax.stages.Wrapped  # (`Slots`, capacity) -> `Slots`
    select: jax.stages.Wrapped  # (`Slots`, source) -> `Slots`
    clone: jax.stages.Wrapped  # (`Slots`, `Copies`, length) -> `Slots`; consumes the slots
    load: jax.stages.Wrapped  # (`Slots`, keys and values, `Copies`) -> `Slots`; consumes the slots
    prefill: jax.stages.Wrapped  # (weights, contexts) -> keys and values
    decode: jax.stages.Wrapped  # (weights, `Slots`, resets, seed, tokens) -> `Slots` and `Chunk`; consumes the slots

    def compiled(self) -> int:
        """Programs compiled so far; constant once every length and number of rows has occurred."""
        return sum(program._cache_size() for program in vars(self).values())


@lru_cache(maxsize=8)
def build_programs(
    model_config: Qwen3Config,
    graphdef: nnx.GraphDef,
    sizes: Sizes,
    *,
    params: SamplingParams,
    stop_ids: tuple[int, ...],
    dtype: str,
    scan: bool,
) -> SamplerPrograms:
    """Nothing is compiled before it is called, and samplers that differ in their seed alone share their programs.
    Arguments are those of ``engine.Sampler``."""
    shards = sizes.shards

    # A jitted function runs as Python only while it is traced, so its line is written once for each new size.
    def prefill(weights: nnx.State, contexts: jax.Array) -> KeysValues:
        _logger.debug("compiling prefill: %d contexts of %d tokens", *contexts.shape)
        return decode.prefill(nnx.merge(graphdef, weights), contexts, dtype)

    def decode_chunk(
        weights: nnx.State, slots: cache.Slots, resets: jax.Array, seed: jax.Array, tokens: jax.Array
    ) -> tuple[cache.Slots, decode.Chunk]:
        rows, capacity = len(slots.token), slots.capacity
        _logger.debug("compiling decode: %d slots of %d positions, %d tokens a chunk", rows, capacity, sizes.chunk)
        model = nnx.merge(graphdef, weights)
        return decode.decode_chunk(
            model, slots, resets, seed, tokens,
            length=sizes.chunk, params=params, stop_ids=stop_ids, dtype=dtype,
        )  # fmt: skip

    return SamplerPrograms(
        empty=jax.jit(partial(cache.empty_slots, model_config, dtype=dtype, scan=scan), static_argnums=(0, 1)),
        resize=jax.jit(cache.resize, static_argnums=1),
        select=jax.jit(partial(cache.select, shards=shards)),
        clone=jax.jit(partial(cache.clone, shards=shards), static_argnums=2, donate_argnums=0),
        load=jax.jit(partial(cache.load, shards=shards), donate_argnums=0),
        prefill=jax.jit(prefill, compiler_options=ROUND_AS_WRITTEN),
        decode=jax.jit(decode_chunk, donate_argnums=1, compiler_options=ROUND_AS_WRITTEN),
    )
