"""The optimizer update: gradients added up over micro-batches, then one step of AdamW."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from extra_jax.learn.batch import MicroBatches, TokenBatch
from extra_jax.learn.loss import Mean
from extra_jax.parallel.sharding import replicated
from extra_jax.rollout.sampling import ROUND_AS_WRITTEN


class TrainState(NamedTuple):
    """What an update changes. ``updates`` is a scalar int32, the optimizer updates done so far."""

    params: nnx.State
    opt_state: Any
    updates: jax.Array


LossFn = Callable[[nnx.State, TokenBatch], tuple[jax.Array, dict[str, Mean]]]
"""(params, micro-batch) -> (weighted sum of token losses, metrics). The sums add up to the metric ``loss``."""

Update = Callable[[TrainState, MicroBatches], tuple[TrainState, dict[str, jax.Array]]]


def init_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Before the first update; optimizer state is laid out like the parameters it belongs to."""

    def layout(_: Any, param: jax.Array) -> NamedSharding:
        return param.sharding

    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(optimizer.init, params)
        shardings = optax.tree_map_params(
            optimizer, layout, abstract, params, transform_non_params=lambda _: replicated(mesh)
        )
        opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
        return TrainState(params, opt_state, jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh)))


def make_update(loss_fn: LossFn, optimizer: optax.GradientTransformation, mesh: Mesh) -> Update:
    """A jitted update; it consumes the state it is given.

    The program is compiled for the shape of the micro-batches; how many of them there are is data.
    """

    def add(state: TrainState, batches: MicroBatches) -> tuple[tuple[jax.Array, dict[str, Mean]], nnx.State]:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)

        def accumulate(index: jax.Array, total: Any) -> Any:
            return jax.tree.map(jnp.add, total, gradient(state.params, micro_batch(batches, index)))

        shapes = jax.eval_shape(gradient, state.params, micro_batch(batches, 0))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, batches.count, accumulate, zeros)

    def update(state: TrainState, batches: MicroBatches) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, told), gradients = add(state, batches)
        steps, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {name: mean.total / jnp.maximum(mean.weight, 1e-30) for name, mean in told.items()}
        metrics |= {"loss": loss, "grad_norm": optax.tree.norm(gradients)}
        return TrainState(optax.apply_updates(state.params, steps), opt_state, state.updates + 1), metrics

    program = jax.jit(update, donate_argnums=0, compiler_options=ROUND_AS_WRITTEN)

    def run(state: TrainState, batches: MicroBatches) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.set_mesh(mesh):
            return program(state, batches)

    return run


def micro_batch(batches: MicroBatches, index: jax.Array | int) -> TokenBatch:
    """Micro-batch ``index``, ``[B, T]``."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches.rows)
