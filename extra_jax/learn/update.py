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
from extra_jax.model.numerics import ROUND_AS_WRITTEN
from extra_jax.parallel.sharding import TRAIN, param_shardings, replicated


class TrainState(NamedTuple):
    """What an update changes. ``updates`` is a scalar int32, the optimizer updates done so far."""

    params: nnx.State
    opt_state: Any
    updates: jax.Array


LossFn = Callable[[nnx.State, TokenBatch], tuple[jax.Array, dict[str, Mean]]]
"""(params, micro-batch) -> (weighted sum of token losses, metrics). The sums add up to the metric ``loss``."""


def init_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Before the first update; takes the parameters over."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(params, optimizer, mesh).opt_state)
    with jax.set_mesh(mesh):
        opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
        return TrainState(params, opt_state, jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh)))


def abstract_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state, of those of parameters; nothing is computed.

    Optimizer state is laid out like the parameters it belongs to.
    """

    def like(param: Any, sharding: NamedSharding) -> Any:
        return jax.ShapeDtypeStruct(param.shape, param.dtype, sharding=sharding)

    opt_state = optax.tree_map_params(
        optimizer,
        lambda leaf, param: like(leaf, param.sharding),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda leaf: like(leaf, replicated(mesh)),
    )
    params = jax.tree.map(lambda leaf: like(leaf, leaf.sharding), params)
    return TrainState(params, opt_state, like(jnp.zeros((), jnp.int32), replicated(mesh)))


class Update:
    """A jitted update; a call consumes the state it is given.

    The program is compiled for the shape of the micro-batches; how many of them there are is data.

    Attributes:
        program: the jitted function; run and lower it with ``mesh`` set.
    """

    def __init__(self, loss_fn: LossFn, optimizer: optax.GradientTransformation, mesh: Mesh):
        self.mesh = mesh

        def update(state: TrainState, batches: MicroBatches) -> tuple[TrainState, dict[str, jax.Array]]:
            (loss, means), gradients = _add_up(loss_fn, state.params, batches, mesh)
            steps, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            metrics = {name: mean.total / jnp.maximum(mean.weight, 1e-30) for name, mean in means.items()}
            metrics |= {"loss": loss, "grad_norm": optax.tree.norm(gradients)}
            return TrainState(optax.apply_updates(state.params, steps), opt_state, state.updates + 1), metrics

        self.program = jax.jit(update, donate_argnums=0, compiler_options=ROUND_AS_WRITTEN)

    def __call__(self, state: TrainState, batches: MicroBatches) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.set_mesh(self.mesh):
            return self.program(state, batches)


def _add_up(loss_fn: LossFn, params: nnx.State, batches: MicroBatches, mesh: Mesh) -> tuple[Any, nnx.State]:
    """Loss, metrics and gradients over all micro-batches. Gradients lie where their parameters do."""
    layout = param_shardings(params, mesh, TRAIN)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def pinned(result: tuple[Any, nnx.State]) -> tuple[Any, nnx.State]:
        return result[0], jax.tree.map(jax.lax.with_sharding_constraint, result[1], layout)

    def accumulate(index: jax.Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, pinned(value_and_grad(params, micro_batch(batches, index))))

    shapes = jax.eval_shape(value_and_grad, params, micro_batch(batches, 0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.fori_loop(0, batches.count, accumulate, pinned(zeros))


def micro_batch(batches: MicroBatches, index: jax.Array | int) -> TokenBatch:
    """Micro-batch ``index``, ``[B, T]``."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches.rows)
