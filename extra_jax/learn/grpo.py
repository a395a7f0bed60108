"""GRPO: from rollouts and advantages to an update."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.config import Config
from extra_jax.learn.batch import Example, MicroBatches, TokenBatch, micro_batches, packed_spans, packed_targets
from extra_jax.learn.loss import Mean, entropy_weights, grpo_loss, sequence_weights
from extra_jax.learn.optimizer import learning_rate, make_optimizer
from extra_jax.learn.score import hidden_logprobs, last_hidden, span_means, token_logprobs
from extra_jax.learn.update import TrainState, Update, init_state, micro_batch
from extra_jax.model.numerics import ROUND_AS_WRITTEN
from extra_jax.parallel.processes import allgather_rows, to_local
from extra_jax.parallel.sharding import constrain
from extra_jax.rollout.types import Rollouts


class Scored(NamedTuple):
    """The results of a scoring pass that is made before the advantages are known; ``None`` where none is made.

    Attributes:
        logprobs: of each mini-batch, ``[M, B, T]``; ``Learner.batches`` compares with them.
        hidden: ``[R, D]`` f32 mean last hidden state of each rollout of this process over its span; zeros where it is
            empty.
    """

    logprobs: list[jax.Array] | None = None
    hidden: np.ndarray | None = None


class Learner:
    """The jitted programs of GRPO on one mesh.

    Attributes:
        score: (parameters, batches) -> log-probabilities ``[M, B, T]`` and ``None``; with a third argument, spans
            ``[M, B, S, 2]``, the second result is their mean hidden states ``[B, M, S, D]``. Run it with ``mesh`` set.
        update: an optimizer update.
        optimizer: what the update applies.
    """

    def __init__(self, graphdef: nnx.GraphDef, config: Config, mesh: Mesh):
        self.config, self.mesh = config, mesh
        grpo, temperature, dtype = config.train, config.rollout.temperature, config.model.dtype
        total_updates = grpo.max_steps * grpo.updates_per_step
        self.optimizer = make_optimizer(config.optim, total_updates)
        self._learning_rate = learning_rate(config.optim, total_updates)

        def score(params: nnx.State, batch: TokenBatch) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, params)
            return token_logprobs(
                model, batch, temperature=temperature, dtype=dtype, entropy_gradient=grpo.entropy_coef > 0
            )

        def loss_fn(params: nnx.State, batch: TokenBatch) -> tuple[jax.Array, dict[str, Mean]]:
            return grpo_loss(grpo, batch, *score(params, batch))

        def score_all(
            params: nnx.State, batches: MicroBatches, spans: jax.Array | None = None
        ) -> tuple[jax.Array, jax.Array | None]:
            model = nnx.merge(graphdef, params)

            def write(index: jax.Array, out: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, jax.Array | None]:
                batch = micro_batch(batches, index)
                hidden = last_hidden(model, batch, dtype)
                logprobs, _ = hidden_logprobs(model, hidden, batch, temperature=temperature, dtype=dtype)
                filled = out[1]
                if spans is not None and filled is not None:
                    filled = filled.at[index].set(span_means(hidden, spans[index]))
                return out[0].at[index].set(logprobs), filled

            means = None
            if spans is not None:
                means = jnp.zeros((*spans.shape[:-1], model.config.hidden_size), jnp.float32)
                means = constrain(means, None, "batch", None, None)
            logprobs, means = jax.lax.fori_loop(0, batches.count, write, (jnp.zeros_like(batches.rows.weights), means))
            return logprobs, None if means is None else jnp.swapaxes(means, 0, 1)  # rows first: ``to_local``

        self.score = jax.jit(score_all, compiler_options=ROUND_AS_WRITTEN)
        self.update = Update(loss_fn, self.optimizer, mesh)

    def init(self, params: nnx.State) -> TrainState:
        """State before the first update; takes the parameters over."""
        return init_state(params, self.optimizer, self.mesh)

    def step(
        self,
        state: TrainState,
        reference: nnx.State | None,
        rollouts: Rollouts,
        advantages: np.ndarray | Sequence[np.ndarray],
        scored: Sequence[jax.Array] | None = None,
    ) -> tuple[TrainState, list[dict[str, jax.Array]]]:
        """Every optimizer update of a step; consumes the state. Arguments as in ``batches``.

        Returns:
            The new state, and the metrics of each update, for ``summary``.
        """
        learned = []
        for batch in (
            self.batches(state.params, reference, rollouts, advantages, scored) * self.config.train.num_iterations
        ):
            state, metrics = self.update(state, batch)
            learned.append(metrics)
        return state, jax.block_until_ready(learned)

    def summary(self, state: TrainState, learned: list[dict[str, jax.Array]]) -> dict[str, float]:
        """Metrics of a step from those of its updates: their means, and the learning rate of the last one."""
        updates = jax.device_get(learned)
        means = {name: float(np.mean([update[name] for update in updates])) for name in updates[0]}
        return means | {"learning_rate": float(self._learning_rate(int(state.updates) - 1))}

    def batches(
        self,
        params: nnx.State,
        reference: nnx.State | None,
        rollouts: Rollouts,
        advantages: np.ndarray | Sequence[np.ndarray],
        scored: Sequence[jax.Array] | None = None,
    ) -> list[MicroBatches]:
        """What each optimizer update of a pass learns from, with the log-probabilities it compares with.

        Args:
            params: before the first update of the step. Scored only where several updates follow; with one, old
                and new policy are the same.
            reference: parameters, or ``None`` when ``beta == 0``.
            rollouts: ``R`` completions of this process.
            advantages: ``[R]``, or for each rollout one of its tokens.
            scored: ``Scored.logprobs`` of these rollouts under ``params``, where there was a pass already.
        """
        grpo, batches = self.config.train, []
        for index, (_, _, packed) in enumerate(self._mini_batches(rollouts, advantages)):
            with jax.set_mesh(self.mesh):
                if grpo.old_logprobs == "sampler":
                    old = packed.rows.sampling_logprobs
                elif grpo.updates_per_step == 1:
                    old = None
                else:
                    old = self.score(params, packed)[0] if scored is None else scored[index]
                ref = None if reference is None else self.score(reference, packed)[0]
            batches.append(packed._replace(rows=packed.rows._replace(old_logprobs=old, ref_logprobs=ref)))
        return batches

    def scored(self, params: nnx.State, rollouts: Rollouts, spans: np.ndarray | None) -> Scored:
        """The pass over the rollouts that ``batches`` would make, made before the advantages are known.

        Args:
            params: before the first update of the step.
            rollouts: ``R`` completions of this process; all processes call it together.
            spans: ``[R, 2]`` completion tokens (first, and behind the last) whose hidden states are averaged; ``None``
                where they are not needed; then there is no pass.
        """
        if spans is None:
            return Scored()
        scores, hidden = [], None
        for chosen, examples, packed in self._mini_batches(rollouts, np.zeros(len(rollouts))):
            targets = packed_targets(examples, self.config.packed_row_length, share_contexts=True)
            parts, places = packed_spans(targets, spans[chosen], packed, self.mesh)
            with jax.set_mesh(self.mesh):
                logprobs, means = self.score(params, packed, parts)
            means = to_local(means)
            hidden = np.zeros((len(rollouts), means.shape[-1]), np.float32) if hidden is None else hidden
            hidden[chosen] = means[tuple(places.T)]
            scores.append(logprobs)
        return Scored(scores, hidden)

    def _mini_batches(
        self, rollouts: Rollouts, advantages: np.ndarray | Sequence[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, list[Example], MicroBatches]]:
        """Of each optimizer update of a pass: which rollouts it learns from, as examples, and packed.

        How they are packed does not depend on the advantages.
        """
        grpo = self.config.train
        groups = rollouts.rollout_ids // grpo.num_generations
        rank = np.searchsorted(np.unique(allgather_rows(groups)), groups)  # among the groups of all processes
        part = rank % grpo.num_minibatches
        for index in range(grpo.num_minibatches):
            chosen = np.flatnonzero(part == index)
            examples = grpo_examples(rollouts, advantages, chosen, self.config)
            packed = micro_batches(
                examples,
                self.config.packed_row_length,
                grpo.micro_batch_rows,
                self.mesh,
                share_contexts=True,
                micro_batch_mean=grpo.loss_type == "bnpo",
                entropy_weights=grpo.uses_entropy,
            )
            yield chosen, examples, packed


def grpo_examples(
    rollouts: Rollouts, advantages: np.ndarray | Sequence[np.ndarray], chosen: np.ndarray, config: Config
) -> list[Example]:
    """The rollouts ``chosen`` for one update, with the weights of ``train.loss_type``."""
    grpo, chosen = config.train, np.asarray(chosen, int)
    in_loss = ~rollouts.truncated if grpo.mask_truncated_completions else np.ones(len(rollouts), bool)
    lengths = np.where(in_loss, rollouts.lengths, 0)[chosen]
    weights = sequence_weights(grpo.loss_type, lengths, config.rollout.max_completion_length)
    focus: Sequence[np.ndarray | None] | np.ndarray = [None] * len(chosen)
    if grpo.uses_entropy:
        mask = (rollouts.completion_mask & in_loss[:, None])[chosen]
        focus = entropy_weights(rollouts.entropies[chosen], mask, grpo.top_entropy_quantile)
    sampled = rollouts.logprobs + rollouts.filter_logprob_mass  # [R, C]
    return [
        Example(
            context=rollouts.context_ids(row),
            target=rollouts.completion_ids(row),
            weight=weight,
            advantage=advantages[row],
            sampling_logprobs=sampled[row, : rollouts.lengths[row]],
            entropy_weights=None if shares is None else shares[: rollouts.lengths[row]],
        )
        for row, weight, shares in zip(chosen, weights, focus, strict=True)
    ]
