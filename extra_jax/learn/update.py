"""The optimizer update: gradient accumulation over micro-batches, then one step of AdamW."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from extra_jax.config import Config
from extra_jax.learn.batch import TokenBatch
from extra_jax.learn.loss import Mean, policy_loss, token_weights
from extra_jax.learn.optimizer import make_optimizer
from extra_jax.learn.score import token_logprobs
from extra_jax.parallel.sharding import constrain, replicated


class TrainState(NamedTuple):
    """What an update changes. ``updates`` is a scalar int32, the optimizer updates done so far."""

    params: nnx.State
    opt_state: Any
    updates: jax.Array


LossFn = Callable[[nnx.State, TokenBatch, jax.Array], tuple[jax.Array, dict[str, Mean]]]
"""(params, micro-batch, weights [B, T]) -> (weighted sum of token losses, metrics)."""


def init_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Optimizer state laid out like the parameters it belongs to."""

    def layout(x: jax.Array) -> NamedSharding:
        return x.sharding

    abstract = jax.eval_shape(optimizer.init, params)
    shardings = optax.tree_map_params(
        optimizer, lambda _, p: layout(p), abstract, params, transform_non_params=lambda _: replicated(mesh)
    )
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return TrainState(params, opt_state, jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh)))


def make_update(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, micro_batches: int
) -> Callable[[TrainState, TokenBatch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """One optimizer update on ``[B, T]`` rows, in ``micro_batches`` parts of ``B / micro_batches`` rows.

    Returns:
        A function (state, batch, weights) -> (state, metrics), to be jitted; it consumes the state.
    """

    def update(state: TrainState, batch: TokenBatch, weights: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        def accumulate(carry: tuple, micro: tuple) -> tuple:
            gradients, told = jax.grad(loss_fn, has_aux=True)(state.params, *micro)
            return jax.tree.map(jnp.add, carry, (gradients, told)), None

        micros = jax.tree.map(lambda x: _split(x, micro_batches), (batch, weights))
        first = jax.tree.map(lambda x: x[0], micros)
        shapes = jax.eval_shape(jax.grad(loss_fn, has_aux=True), state.params, *first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradients, told), _ = jax.lax.scan(accumulate, zeros, micros)
        step, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {name: mean.total / jnp.maximum(mean.weight, 1e-30) for name, mean in told.items()}
        metrics["grad_norm"] = optax.global_norm(gradients)
        return TrainState(optax.apply_updates(state.params, step), opt_state, state.updates + 1), metrics

    return update


def _split(x: jax.Array, parts: int) -> jax.Array:
    """``[B, ...]`` -> ``[parts, B / parts, ...]``: row ``i`` goes to part ``i % parts``; every device keeps its rows."""
    split = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    return constrain(split, None, "batch", *[None] * (x.ndim - 1))


class Learner:
    """The jitted programs of GRPO on one mesh.

    Args:
        graphdef: of the model.
        config: of the run.
        mesh: of the run.
    """

    def __init__(self, graphdef: nnx.GraphDef, config: Config, mesh: Mesh):
        self.mesh, self.several_updates = mesh, config.train.updates_per_step > 1
        grpo, temperature, dtype = config.train, config.rollout.temperature, config.model.dtype
        self.optimizer = make_optimizer(config.optim, grpo.max_steps * grpo.updates_per_step)
        micro_batches = grpo.minibatch_size // (grpo.micro_batch_size or grpo.minibatch_size)

        def score(params: nnx.State, batch: TokenBatch) -> jax.Array:
            model = nnx.merge(graphdef, params)
            micros = jax.tree.map(lambda x: _split(x, micro_batches), batch)
            parts = jax.lax.map(lambda b: token_logprobs(model, b, temperature=temperature, dtype=dtype)[0], micros)
            return constrain(parts.swapaxes(0, 1).reshape(batch.tokens.shape), "batch", None)

        def loss_fn(params: nnx.State, batch: TokenBatch, weights: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
            logprobs, entropies = token_logprobs(
                nnx.merge(graphdef, params), batch, temperature=temperature, dtype=dtype
            )
            old = jax.lax.stop_gradient(logprobs) if batch.old_logprobs is None else batch.old_logprobs
            loss, told = policy_loss(grpo, logprobs, old, batch.advantages, batch.ref_logprobs)
            total = jnp.sum(loss * weights)
            told |= {
                "entropy": entropies,
                "sampling/sampling_logp_difference/mean": jnp.abs(old - batch.sampling_logprobs),
            }
            mask = batch.completion_mask.astype(jnp.float32)
            means = {name: Mean(jnp.sum(value * mask), jnp.sum(mask)) for name, value in told.items()}
            return total, means | {"loss": Mean(total, jnp.float32(1.0 / micro_batches))}

        def update(state: TrainState, batch: TokenBatch) -> tuple[TrainState, dict[str, jax.Array]]:
            weights = token_weights(
                grpo.loss_type,
                batch.completion_mask,
                max_completion_length=config.rollout.max_completion_length,
                micro_batches=micro_batches,
            )
            return make_update(loss_fn, self.optimizer, micro_batches)(state, batch, weights)

        self._score = jax.jit(score)
        self._update = jax.jit(update, donate_argnums=0)

    def init(self, params: nnx.State) -> TrainState:
        """State before the first update."""
        with jax.set_mesh(self.mesh):
            return init_state(params, self.optimizer, self.mesh)

    def with_logprobs(self, params: nnx.State, reference: nnx.State | None, batch: TokenBatch) -> TokenBatch:
        """Adds what the loss compares with: log-probabilities of the policy as it is now, and of the reference.

        Args:
            params: before the first update on the step's batches. Scored only where several updates follow; with
                one, old and new policy are the same.
            reference: parameters, or ``None`` when ``beta == 0``.
            batch: global rows.
        """
        with jax.set_mesh(self.mesh):
            old = self._score(params, batch) if self.several_updates else None
            ref = None if reference is None else self._score(reference, batch)
        return batch._replace(old_logprobs=old, ref_logprobs=ref)

    def update(self, state: TrainState, batch: TokenBatch) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimizer update on one mini-batch; consumes ``state``."""
        with jax.set_mesh(self.mesh):
            return self._update(state, batch)
