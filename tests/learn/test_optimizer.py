"""AdamW with warm-up, decay and clipping against torch's."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from rollout.tiny import CONFIG

from extra_jax.config import OptimConfig
from extra_jax.learn.optimizer import learning_rate, make_optimizer
from extra_jax.model.qwen3 import Qwen3

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other

TOTAL = 8


@pytest.fixture(scope="module")
def start() -> nnx.State:
    """Parameters of an untied model with biases, all different from zero."""
    config = dataclasses.replace(CONFIG, tie_word_embeddings=False, attention_bias=True)
    random = np.random.default_rng(0)
    abstract = nnx.state(nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0))))
    return jax.tree.map(lambda x: random.standard_normal(x.shape).astype(np.float32), abstract)


def named(tree: nnx.State) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def is_matrix(name: str) -> bool:
    return "kernel" in name or "embed" in name or "lm_head" in name


def gradients(like: nnx.State) -> list[nnx.State]:
    """One a step; norms on both sides of the clip, and one of zeros."""
    random = np.random.default_rng(1)

    def draw(scale: float) -> nnx.State:
        return jax.tree.map(lambda x: (scale * random.standard_normal(x.shape)).astype(np.float32), like)

    return [draw(scale) for scale in (1e-4, 3.0, 1e-3, 0.0, 1e-5, 0.5)]


def torch_rate(config: OptimConfig, update: int) -> float:
    """``transformers``' ``get_cosine_schedule_with_warmup`` / ``get_constant_schedule_with_warmup``."""
    if update < config.warmup_steps:
        return update / config.warmup_steps
    if config.lr_scheduler_type == "constant":
        return 1.0
    progress = (update - config.warmup_steps) / max(1, TOTAL - config.warmup_steps)
    return max(0.0, 0.5 * (1.0 + np.cos(np.pi * progress)))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_updates_equal_those_of_torch_adamw(start, schedule, warmup):
    config = OptimConfig(
        learning_rate=3e-3,
        lr_scheduler_type=schedule,
        warmup_steps=warmup,
        weight_decay=0.1,
        adam_beta1=0.8,
        adam_beta2=0.95,
        adam_epsilon=1e-7,
        max_grad_norm=0.25,
    )
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in named(start).items()}
    groups = [
        {"params": [p for name, p in theirs.items() if is_matrix(name)], "weight_decay": 0.1},
        {"params": [p for name, p in theirs.items() if not is_matrix(name)], "weight_decay": 0.0},
    ]
    assert all(group["params"] for group in groups)
    reference = torch.optim.AdamW(groups, lr=3e-3, betas=(0.8, 0.95), eps=1e-7)
    rates = torch.optim.lr_scheduler.LambdaLR(reference, lambda update: torch_rate(config, update))

    optimizer = make_optimizer(config, TOTAL)

    @jax.jit
    def update(gradient, state, params):
        steps, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, steps), state

    ours, state = start, optimizer.init(start)
    for gradient in gradients(start):
        ours, state = update(gradient, state, ours)
        for name, value in named(gradient).items():
            theirs[name].grad = torch.tensor(value)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.25)
        reference.step()
        rates.step()
        for name, value in named(ours).items():
            np.testing.assert_allclose(value, theirs[name].detach().numpy(), atol=2e-6, err_msg=name)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_learning_rate_equals_that_of_transformers(schedule, warmup):
    config = OptimConfig(learning_rate=0.5, lr_scheduler_type=schedule, warmup_steps=warmup)
    rate = learning_rate(config, TOTAL)
    for update in range(TOTAL + 1):
        assert float(rate(update)) == pytest.approx(0.5 * torch_rate(config, update), abs=1e-7)


def test_a_warm_up_longer_than_the_run_only_warms_up():
    rate = learning_rate(OptimConfig(learning_rate=1.0, lr_scheduler_type="cosine", warmup_steps=20), 10)
    assert [float(rate(update)) for update in (0, 5, 10)] == pytest.approx([0.0, 0.25, 0.5])


def test_weight_decay_shrinks_matrices_and_leaves_norms_and_biases_alone(start):
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2, weight_decay=0.5), TOTAL)
    zeros = jax.tree.map(np.zeros_like, start)
    steps, _ = optimizer.update(zeros, optimizer.init(start), start)
    new, old = named(optax.apply_updates(start, steps)), named(start)
    decayed = [name for name in old if not np.array_equal(new[name], old[name])]
    assert sorted(decayed) == sorted(filter(is_matrix, old))
    for name in decayed:
        np.testing.assert_allclose(new[name], old[name] * (1 - 0.5e-2), rtol=1e-6)
    assert {name for name in old if "norm" in name or "bias" in name} == set(old) - set(decayed)


def test_optimizer_state_is_as_large_as_two_copies_of_the_parameters(start):
    state = make_optimizer(OptimConfig(), TOTAL).init(start)
    parameters = sum(value.size for value in named(start).values())
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 2 * parameters + 10
