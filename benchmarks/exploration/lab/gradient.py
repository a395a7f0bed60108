"""How much of a gradient is signal: its variance over groups, in parts (``docs/methods/extra.md`` 7).

At ratio 1 the loss is linear in the advantages, so the gradient is the sum of those of its parts (task, novelty, guided
prompts). The groups of a step are dealt into folds; the spread of the folds' gradients estimates the noise of their
mean. Gradients are compared in a count sketch of 4,096 numbers, which keeps inner products without bias.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.config import Config
from extra_jax.learn.batch import MicroBatches, TokenBatch, micro_batches
from extra_jax.learn.grpo import grpo_examples
from extra_jax.learn.score import token_logprobs
from extra_jax.learn.update import micro_batch
from extra_jax.parallel.processes import allgather_rows
from extra_jax.rollout.types import Rollouts

SKETCH = 4096


class GradientProbe:
    """Gradient statistics of one step, every ``every`` steps. It changes nothing.

    Args:
        graphdef: of the model.
        config: of the run.
        mesh: of the run.
        every: steps between measurements.
        folds: parts of the step's groups whose gradients are compared.
    """

    def __init__(self, graphdef: nnx.GraphDef, config: Config, mesh: Mesh, *, every: int, folds: int = 4):
        self.config, self.mesh, self.every, self.folds = config, mesh, every, folds

        def objective(params: nnx.State, batch: TokenBatch) -> jax.Array:
            model = nnx.merge(graphdef, params)
            temperature = config.rollout.temperature
            logprobs, _ = token_logprobs(model, batch, temperature=temperature, dtype=config.model.dtype)
            return jnp.sum(logprobs * batch.advantages * batch.weights)

        def sketched(params: nnx.State, batches: MicroBatches) -> jax.Array:
            def add(index: jax.Array, total: nnx.State) -> nnx.State:
                gradient = jax.grad(objective)(params, micro_batch(batches, index))
                return jax.tree.map(jnp.add, total, gradient)

            zeros = jax.tree.map(jnp.zeros_like, params)
            return sketch(jax.lax.fori_loop(0, batches.count, add, zeros))

        self._sketch = jax.jit(sketched)

    def __call__(
        self, params: nnx.State, rollouts: Rollouts, parts: Mapping[str, np.ndarray], step: int
    ) -> dict[str, float]:
        """Metrics ``gradient/*``; empty where it is not due. All processes call it together.

        Args:
            params: of the policy before the update.
            rollouts: of this process.
            parts: name -> ``[R]`` advantages; they add up to those of the update (``advantage_parts``).
            step: of the run.
        """
        if step % self.every:
            return {}
        folds, seed = self.folds, self.config.run.seed & 0xFFFFFFFF
        groups = rollouts.rollout_ids // self.config.train.num_generations
        everywhere = np.unique(allgather_rows(groups))
        fold = np.random.default_rng((seed, step)).permutation(len(everywhere)) % folds
        own = fold[np.searchsorted(everywhere, groups)]
        used = {name: values for name, values in parts.items() if allgather_rows(values).any()}
        sketches = np.stack(
            [[self._fold(params, rollouts, values, own == f) for f in range(folds)] for values in used.values()]
        ) if used else np.zeros((0, folds, SKETCH))  # fmt: skip
        return gradient_metrics(dict(zip(used, folds * sketches, strict=True)), len(everywhere))

    def _fold(self, params: nnx.State, rollouts: Rollouts, advantages: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """``[4096]`` sketch of a fold's share of the step's gradient."""
        masked = np.where(chosen, advantages, 0.0)  # every row is there, so that weights are those of the whole step
        examples = grpo_examples(rollouts, masked, np.arange(len(rollouts)), self.config)
        rows = [example for example, ok in zip(examples, chosen, strict=True) if ok]
        t = self.config.train
        packed = micro_batches(rows, t.row_length or self.config.max_sequence_length, t.micro_batch_rows, self.mesh)
        with jax.set_mesh(self.mesh):
            return np.asarray(self._sketch(params, packed), np.float64)


def advantage_parts(task: np.ndarray, total: np.ndarray, guided: np.ndarray) -> dict[str, np.ndarray]:
    """What advantages are made of: ``task``, ``novelty`` and ``guided``, each ``[R]``, which add up to ``total``.

    Args:
        task: ``[R]`` of the estimator.
        total: ``[R]`` after exploration.
        guided: ``[R]`` bool, completions behind a prefix.
    """
    plain = {"task": np.where(guided, 0.0, task), "novelty": np.where(guided, 0.0, total - task)}
    return {**plain, "guided": np.where(guided, total, 0.0)}


def sketch(tree: nnx.State, size: int = SKETCH) -> jax.Array:
    """``[size]`` f32 count sketch of all numbers of a tree: each is added to one place with a random sign, always the
    same. Inner products of sketches are those of the trees, in expectation over places and signs."""
    total = jnp.zeros(size, jnp.float32)
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        bits = jax.random.bits(jax.random.fold_in(jax.random.key(0), index), (leaf.size,), jnp.uint32)
        signs = 1.0 - 2.0 * (bits & 1).astype(jnp.float32)
        total = total.at[(bits >> 1) % size].add(signs * leaf.reshape(-1).astype(jnp.float32))
    return total


def gradient_metrics(parts: Mapping[str, np.ndarray], groups: int) -> dict[str, float]:
    """Signal, noise and angles of the parts of a gradient and of their sum ``total``.

    ``gradient/X_noise`` estimates the trace of the covariance of the mean, ``gradient/X_signal`` the squared norm of
    its expectation (it may be negative), ``gradient/X_snr`` their ratio, ``gradient/X_noise_scale`` the number of
    groups at which both are equal.

    Args:
        parts: name -> ``[F, n]`` gradients of ``F`` folds, each an unbiased estimate of the whole.
        groups: in the step.
    """
    numbers: dict[str, float] = {}
    whole = dict(parts) | ({"total": sum(parts.values())} if parts else {})
    means = {name: folds.mean(axis=0) for name, folds in whole.items()}
    for name, folds in whole.items():
        count, mean = len(folds), means[name]
        noise = float(((folds - mean) ** 2).sum() / (count * (count - 1)))
        signal = float(mean @ mean) - noise
        numbers |= {f"{name}_norm": float(np.linalg.norm(mean)), f"{name}_noise": noise, f"{name}_signal": signal}
        if noise > 0:
            numbers[f"{name}_snr"] = signal / noise
        if signal > 0:
            numbers[f"{name}_noise_scale"] = groups * noise / signal
    for name in parts:
        if name != "task" and "task" in parts:
            norms = np.linalg.norm(means[name]) * np.linalg.norm(means["task"])
            numbers[f"{name}_cos_task"] = float(means[name] @ means["task"] / norms) if norms else 0.0
            numbers[f"{name}_over_task"] = float(
                np.linalg.norm(means[name]) / max(np.linalg.norm(means["task"]), 1e-30)
            )
    return {f"gradient/{name}": value for name, value in numbers.items()}
