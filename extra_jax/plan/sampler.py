"""The programs of the sampler, described by shapes: all that the plan knows of its inside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from extra_jax.config import Config
from extra_jax.learn.packing import shares_contexts
from extra_jax.model.config import Qwen3Config
from extra_jax.model.load import abstract_model
from extra_jax.parallel.sharding import TRAIN, batch_sharding, replicated
from extra_jax.rollout import cache, decode
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.programs import COPY_ROWS, prefill_rows
from extra_jax.rollout.types import SamplingParams
from extra_jax.rollout.verify import Rows, row_length, rows_at_once
from extra_jax.runtime import sampling_params

_STOPS = (0, 1)  # any two tokens: their values are constants of the program, their number its shape


class AbstractSampler(NamedTuple):
    """Programs that lower themselves; ``slots`` are abstract, caches included. ``verified`` are the tokens that
    ``verify`` takes in a call, padding included."""

    slots: Any
    prefill: Callable[[], jax.stages.Lowered]
    load: Callable[[], jax.stages.Lowered]
    clone: Callable[[], jax.stages.Lowered]
    resize: Callable[[], jax.stages.Lowered]  # from the next smaller capacity to the full one
    select: Callable[[], jax.stages.Lowered]  # from all rows to the next smaller number of them
    decode: Callable[[], jax.stages.Lowered]
    verify: Callable[[], jax.stages.Lowered]
    verified: int


def longest_context(config: Config) -> int:
    """Tokens of what the sampler may have to read at once: a prompt, with nearly all of a completion where exploration
    gives prefixes."""
    prefixes = any(arguments is not None for arguments in config.explore.prompts.values())
    return config.max_sequence_length if prefixes else config.rollout.max_prompt_length


def sampler_programs(
    config: Config,
    shape: Qwen3Config,
    mesh: Mesh,
    weights: nnx.State,
    slots: int,
    chunk: int,
    *,
    scan: bool,
    params: SamplingParams | None = None,
) -> AbstractSampler:
    """Prefill of the longest contexts, a decode chunk at full capacity and the check of the longest drafts; ``weights``
    are abstract, ``params`` by default those of training. The other arguments are those of ``Sampler``."""
    settings = config.rollout
    sampler = Sampler(
        shape,
        abstract_model(shape, config.model, scan=scan)[0],
        mesh,
        params=params or sampling_params(config),
        stop_ids=_STOPS,
        seed=0,
        max_prompt_length=settings.max_prompt_length,
        slots=slots,
        chunk=chunk,
        dtype=settings.dtype,
        scan=scan,
    )
    capacity = sampler.sizes.longest + chunk
    with jax.set_mesh(mesh):  # the size of a page depends on what it runs on

        def room(capacity: int) -> Any:
            return jax.eval_shape(lambda: cache.empty_slots(shape, slots, capacity, settings.dtype, scan))

        shapes = [room(capacity), room(sampler.sizes.capacity_below(capacity))]

    def layout(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        if leaf.ndim < 4:
            return batch_sharding(mesh)
        stack = [None] * (leaf.ndim - 4)
        return NamedSharding(mesh, TRAIN.spec(*stack, "batch", "kv_heads", None, None))

    state, small = jax.tree.map(lambda leaf: leaf.update(sharding=layout(leaf)), shapes)

    def row(dtype: type, *tail: int, rows: int = slots) -> Any:
        return jax.ShapeDtypeStruct((rows, *tail), dtype, sharding=batch_sharding(mesh))

    width = longest_context(config)
    at_once = prefill_rows(width, slots)
    prompts = row(np.int32, width, rows=at_once * sampler.shards)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(mesh))
    tokens = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    resets = row(np.int32, len(decode.Resets._fields))
    some = row(np.int32, rows=COPY_ROWS * sampler.shards)
    fewer = row(np.int32, rows=max(sampler.sizes.rows_below(sampler.shard_slots), 1) * sampler.shards)
    programs = sampler.programs

    def prefilled() -> Any:
        with jax.set_mesh(mesh):
            fresh = jax.eval_shape(programs.prefill, weights, prompts)

        def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            lead = [None] * (leaf.ndim - 4)
            return leaf.update(sharding=NamedSharding(mesh, TRAIN.spec(*lead, "batch", None, "kv_heads", None)))

        return jax.tree.map(place, fresh)

    length = row_length(sampler.sizes, sampler.sizes.longest)
    checked = rows_at_once(length) * sampler.shards
    return AbstractSampler(
        state,
        lambda: programs.prefill.lower(weights, prompts),
        lambda: programs.load.lower(state, prefilled(), cache.Copies(some, some)),
        lambda: programs.clone.lower(state, cache.Copies(some, some), width),
        lambda: programs.resize.lower(small, capacity),
        lambda: programs.select.lower(state, fewer),
        lambda: programs.decode.lower(weights, state, resets, seed, tokens),
        lambda: sampler.verify.program.lower(weights, _drafts(mesh, checked, length)),
        checked * length,
    )


def _drafts(mesh: Mesh, rows: int, length: int) -> Rows:
    def column(dtype: type) -> Any:
        return jax.ShapeDtypeStruct((rows, length), dtype, sharding=batch_sharding(mesh))

    contexts = column(np.int32) if shares_contexts(length) else None
    ids, noise = column(np.int32), column(np.uint32)
    return Rows(ids, ids, ids, contexts, noise, noise, column(np.bool_))
