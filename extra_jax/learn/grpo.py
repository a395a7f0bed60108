"""GRPO: from rollouts and advantages to an update."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.config import Config
from extra_jax.learn.batch import Example, MicroBatches, TokenBatch, micro_batches
from extra_jax.learn.loss import Mean, policy_loss, sequence_weights
from extra_jax.learn.optimizer import learning_rate, make_optimizer
from extra_jax.learn.score import token_logprobs
from extra_jax.learn.update import TrainState, init_state, make_update, micro_batch
from extra_jax.rollout.sampling import ROUND_AS_WRITTEN
from extra_jax.rollout.types import Rollouts


class Learner:
    """The jitted programs of GRPO on one mesh.

    Args:
        graphdef: of the model.
        config: of the run.
        mesh: of the run.
    """

    def __init__(self, graphdef: nnx.GraphDef, config: Config, mesh: Mesh):
        self.config, self.mesh = config, mesh
        grpo, temperature, dtype = config.train, config.rollout.temperature, config.model.dtype
        total_updates = grpo.max_steps * grpo.updates_per_step
        self._optimizer = make_optimizer(config.optim, total_updates)
        self._learning_rate = learning_rate(config.optim, total_updates)

        def score(params: nnx.State, batch: TokenBatch) -> tuple[jax.Array, jax.Array]:
            return token_logprobs(nnx.merge(graphdef, params), batch, temperature=temperature, dtype=dtype)

        def loss_fn(params: nnx.State, batch: TokenBatch) -> tuple[jax.Array, dict[str, Mean]]:
            logprobs, entropies = score(params, batch)
            old = jax.lax.stop_gradient(logprobs) if batch.old_logprobs is None else batch.old_logprobs
            losses, told = policy_loss(grpo, logprobs, old, batch.advantages, batch.ref_logprobs)
            told["entropy"] = entropies
            told["sampling/sampling_logp_difference/mean"] = jnp.abs(old - batch.sampling_logprobs)
            mask = batch.mask.astype(jnp.float32)
            means = {name: Mean(jnp.sum(value * mask), jnp.sum(mask)) for name, value in told.items()}
            return jnp.sum(losses * batch.weights), means

        def score_all(params: nnx.State, batches: MicroBatches) -> jax.Array:
            def write(index: jax.Array, scores: jax.Array) -> jax.Array:
                return scores.at[index].set(score(params, micro_batch(batches, index))[0])

            return jax.lax.fori_loop(0, batches.count, write, jnp.zeros_like(batches.rows.weights))

        self._score = jax.jit(score_all, compiler_options=ROUND_AS_WRITTEN)
        self.update = make_update(loss_fn, self._optimizer, mesh)

    def init(self, params: nnx.State) -> TrainState:
        """State before the first update; takes the parameters over."""
        return init_state(params, self._optimizer, self.mesh)

    def summary(self, state: TrainState, learned: list[dict[str, jax.Array]]) -> dict[str, float]:
        """Metrics of a step from those of its updates: their means, and the learning rate of the last one."""
        updates = jax.device_get(learned)
        means = {name: float(np.mean([update[name] for update in updates])) for name in updates[0]}
        return means | {"learning_rate": float(self._learning_rate(int(state.updates) - 1))}

    def batches(
        self, params: nnx.State, reference: nnx.State | None, rollouts: Rollouts, advantages: np.ndarray
    ) -> list[MicroBatches]:
        """What each optimizer update of a pass learns from, with the log-probabilities it compares with.

        Args:
            params: before the first update of the step. Scored only where several updates follow; with one, old
                and new policy are the same.
            reference: parameters, or ``None`` when ``beta == 0``.
            rollouts: ``R`` completions of this process.
            advantages: ``[R]``.
        """
        grpo = self.config.train
        part = rollouts.prompt_index % grpo.num_minibatches  # whole groups: prompt i goes to mini-batch i % M
        batches = []
        for index in range(grpo.num_minibatches):
            examples = grpo_examples(rollouts, advantages, np.flatnonzero(part == index), self.config)
            packed = micro_batches(
                examples,
                grpo.row_length or self.config.max_sequence_length,
                grpo.micro_batch_rows,
                self.mesh,
                micro_batch_mean=grpo.loss_type == "bnpo",
            )
            with jax.set_mesh(self.mesh):
                old = self._score(params, packed) if grpo.updates_per_step > 1 else None
                ref = None if reference is None else self._score(reference, packed)
            batches.append(packed._replace(rows=packed.rows._replace(old_logprobs=old, ref_logprobs=ref)))
        return batches


def grpo_examples(rollouts: Rollouts, advantages: np.ndarray, chosen: Sequence[int], config: Config) -> list[Example]:
    """The rollouts ``chosen`` for one update, with the weights of ``train.loss_type``."""
    in_loss = ~rollouts.truncated if config.train.mask_truncated_completions else np.ones(len(rollouts), bool)
    lengths = np.where(in_loss, rollouts.lengths, 0)[chosen]
    weights = sequence_weights(config.train.loss_type, lengths, config.rollout.max_completion_length)
    return [
        Example(
            context=rollouts.context_ids(row),
            target=rollouts.completion_ids(row),
            weight=weight,
            advantage=advantages[row],
            sampling_logprobs=(rollouts.logprobs + rollouts.log_kept)[row, : rollouts.lengths[row]],
        )
        for row, weight in zip(chosen, weights, strict=True)
    ]
