"""A frozen batch of rollouts and one GRPO step on it, for any mesh, remat policy and train setting."""

import copy
import dataclasses
import functools

import jax
import numpy as np
from flax import nnx
from rollout.tiny import CONFIG, graphdef, mesh, params

from extra_jax.config import Config, config_from_dict
from extra_jax.learn.grpo import Learner
from extra_jax.rollout.types import Rollouts, StopReason

PROMPTS, GROUP, MAX_PROMPT, CAP = 4, 6, 8, 12
ROWS = PROMPTS * GROUP
OPTIM = {
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    # Adam divides a gradient by its own size; without this, elements whose gradient is rounding noise move by the rate
    "adam_epsilon": 1e-3,
}
TRAIN = {
    "max_steps": 2,
    "prompts_per_step": PROMPTS,
    "num_generations": GROUP,
    "num_iterations": 2,
    "loss_type": "grpo",
    "epsilon_high": 0.28,
    "beta": 0.05,
}
ONE_MICRO_BATCH = {"row_length": 64, "micro_batch_rows": 6}  # instead of many of one row of 20 tokens
EVERY_OPTION = {  # what looks beyond a token: at its sequence, at the tokens of the update, at the sampler
    "importance_sampling_level": "sequence",
    "importance_sampling_correction": "sequence_truncate",
    "entropy_coef": 0.05,
    "top_entropy_quantile": 0.5,
}
PLAIN = {"beta": 0.0, "num_iterations": 1}


def config(optim: dict | None = None, **train: object) -> Config:
    return config_from_dict(
        {
            "model": {"preset": "tiny", "dtype": "float32"},  # the learner gets its model from ``rollout.tiny``
            "rollout": {"max_prompt_length": MAX_PROMPT, "max_completion_length": CAP},
            "train": {**TRAIN, **train},
            "optim": {**OPTIM, **(optim or {})},
        }
    )


def frozen_rollouts(seed: int = 0) -> Rollouts:
    """Random completions of 1 to ``CAP`` tokens, five of them truncated; no sampler involved."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, CAP, ROWS).astype(np.int32)
    cut = random.choice(ROWS, 5, replace=False)
    lengths[cut] = CAP
    prompts = [random.integers(0, CONFIG.vocab_size, n).astype(np.int32) for n in (1, 4, MAX_PROMPT, 3)]
    return Rollouts(
        rollout_ids=np.arange(ROWS),
        prompt_index=np.repeat(np.arange(PROMPTS, dtype=np.int32), GROUP),
        prompt_ids=[prompts[row // GROUP] for row in range(ROWS)],
        tokens=random.integers(0, CONFIG.vocab_size, (ROWS, CAP)).astype(np.int32),
        lengths=lengths,
        logprobs=-random.exponential(2, (ROWS, CAP)).astype(np.float32),
        entropies=random.uniform(0, 3, (ROWS, CAP)).astype(np.float32),
        stop_reasons=[StopReason.LENGTH if row in cut else StopReason.STOP_TOKEN for row in range(ROWS)],
        prefix_ids=[np.zeros(0, np.int32)] * ROWS,
        full_logprobs=np.zeros((ROWS, CAP), np.float32),
        filter_logprob_mass=np.zeros((ROWS, CAP), np.float32),
    )


def frozen_advantages(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 100).standard_normal(ROWS)


def reordered(rollouts: Rollouts, order: np.ndarray) -> Rollouts:
    rows = {field.name: getattr(rollouts, field.name) for field in dataclasses.fields(rollouts)}
    del rows["counters"]
    return Rollouts(**{k: v[order] if isinstance(v, np.ndarray) else [v[i] for i in order] for k, v in rows.items()})


@functools.cache
def learner(mesh_name: str = "1") -> Learner:
    """Two iterations with a reference; compiled once a mesh."""
    return Learner(graphdef(), config(), mesh(mesh_name))


@functools.cache
def full_learner(mesh_name: str = "1", remat: str = "full") -> Learner:
    """The same with ``EVERY_OPTION``."""
    return Learner(graphdef(remat), config(**EVERY_OPTION), mesh(mesh_name))


@functools.cache
def plain_learner(remat: str = "full") -> Learner:
    """One iteration, no reference, no weight decay: a program without old and reference log-probabilities."""
    return Learner(graphdef(remat), config({"weight_decay": 0.0}, **PLAIN), mesh())


def with_train(compiled: Learner, **train: object) -> Learner:
    """The same programs on batches made by other settings: weights, rows and mini-batches are data to them."""
    other = copy.copy(compiled)
    other.config = config(**train)
    return other


@functools.cache
def _moved() -> nnx.State:
    random = np.random.default_rng(7)
    return jax.tree.map(lambda x: np.asarray(x) + 0.05 * random.standard_normal(x.shape, np.float32), params())


def reference(mesh_name: str = "1") -> nnx.State:
    """Parameters beside those of the policy."""
    return jax.tree.map(lambda moved, like: jax.device_put(np.array(moved), like.sharding), _moved(), params(mesh_name))


def run_step(
    of: Learner,
    rollouts: Rollouts | None = None,
    advantages: np.ndarray | None = None,
    mesh_name: str = "1",
) -> tuple[nnx.State, list[dict[str, float]]]:
    """New parameters on the host and the metrics of each update."""
    rollouts = frozen_rollouts() if rollouts is None else rollouts
    advantages = frozen_advantages() if advantages is None else advantages
    start = params(mesh_name)
    batches = of.batches(start, reference(mesh_name) if of.config.train.beta else None, rollouts, advantages)
    state, told = of.init(start), []
    for batch in batches * of.config.train.num_iterations:
        state, metrics = of.update(state, batch)
        told.append({name: float(value) for name, value in metrics.items()})
    assert int(state.updates) == len(told)
    return jax.tree.map(np.asarray, state.params), told


def largest_difference(one: nnx.State, other: nnx.State) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, other)))
