"""The loss of one update: value and gradient against float64 loops, and against TRL's formulas in torch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.config import GRPOConfig
from extra_jax.learn.loss import kl_divergence, policy_loss, sequence_weights
from learn import oracle
from learn.oracle import LOSS_TYPES

ROWS, LENGTH, CAP = 6, 9, 11
KINK = 1e-3  # distance from a clip bound below which a finite difference is not the gradient
VARIANTS = [
    dict(epsilon=0.2, epsilon_high=high, delta=delta, beta=beta, kl_estimator=kl)
    for (high, delta), (beta, kl) in itertools.product(
        [(None, None), (0.28, None), (0.28, 1.5)], [(0.0, "k3"), (0.3, "k1"), (0.3, "k2"), (0.3, "k3")]
    )
]


def tokens(seed: int = 0) -> dict[str, np.ndarray]:
    """Ratios on both sides of every bound, advantages of both signs, a row that is left out; all ``[R, C]``."""
    random = np.random.default_rng(seed)
    old = -random.exponential(1.0, (ROWS, LENGTH))
    ratio = random.uniform(0.4, 2.2, old.shape)
    for bound in (0.8, 1.2, 1.28, 1.5):
        ratio = np.where(np.abs(ratio - bound) < 5 * KINK, bound + 10 * KINK, ratio)
    lengths = np.array([9, 4, 0, 1, 7, 9])
    return {
        "new": (old + np.log(ratio)).astype(np.float32),
        "old": old.astype(np.float32),
        "advantage": np.repeat(random.standard_normal((ROWS, 1)), LENGTH, 1).astype(np.float32),
        "ref": (old + 0.4 * random.standard_normal(old.shape)).astype(np.float32),
        "mask": np.arange(LENGTH) < lengths[:, None],
        "lengths": lengths,
    }


def ours(loss_type: str, variant: dict, data: dict) -> tuple[float, np.ndarray]:
    """Loss of the update and its gradient with respect to the new log-probabilities."""
    weights = sequence_weights(loss_type, data["lengths"], CAP)[:, None] * data["mask"]
    config = GRPOConfig(loss_type=loss_type, **variant)
    ref = data["ref"] if variant["beta"] else None

    def loss(new):
        losses, _ = policy_loss(config, new, data["old"], data["advantage"], ref)
        return jnp.sum(losses * weights.astype(np.float32))

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(data["new"]))
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(f"{x}" for x in v.values()))
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_equal_float64(loss_type, variant):
    data = tokens()
    new, old, advantage = (data[name].astype(np.float64) for name in ("new", "old", "advantage"))
    ref = data["ref"].astype(np.float64) if variant["beta"] else None

    def token_losses(shift: float) -> np.ndarray:
        return oracle.policy_loss(new + shift, old, advantage, ref, **variant)

    value, gradient = ours(loss_type, variant, data)
    assert value == pytest.approx(oracle.aggregate(loss_type, token_losses(0), data["mask"], CAP), rel=1e-5, abs=1e-6)
    slope = (token_losses(1e-6) - token_losses(-1e-6)) / 2e-6  # a token's loss depends on no other token
    for at in np.ndindex(*slope.shape):
        alone = np.zeros(slope.shape)
        alone[at] = slope[at]
        assert gradient[at] == pytest.approx(oracle.aggregate(loss_type, alone, data["mask"], CAP), rel=1e-4, abs=1e-6)


def trl(loss_type: str, variant: dict, data: dict) -> tuple[float, np.ndarray, dict[str, float]]:
    """``GRPOTrainer._compute_loss`` of TRL 1.x for one process without gradient accumulation, from its description."""
    new, old, advantages, ref = (torch.tensor(data[name]) for name in ("new", "old", "advantage", "ref"))
    mask = torch.tensor(data["mask"]).float()
    new.requires_grad_()
    low, high = variant["epsilon"], variant["epsilon_high"] or variant["epsilon"]
    coef_1 = torch.exp(new - old)
    coef_2 = torch.clamp(coef_1, 1 - low, 1 + high)
    if variant["delta"] is not None:
        coef_1 = torch.clamp(coef_1, max=variant["delta"])
    per_token = -torch.min(coef_1 * advantages, coef_2 * advantages)
    difference = ref - new
    kl = {"k1": -difference, "k2": difference**2 / 2, "k3": torch.exp(difference) - difference - 1}
    kl = kl[variant["kl_estimator"]]
    if variant["beta"]:
        per_token = per_token + variant["beta"] * kl
    loss = {
        "grpo": lambda: ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean(),
        "bnpo": lambda: (per_token * mask).sum() / mask.sum().clamp(min=1.0),
        "dr_grpo": lambda: (per_token * mask).sum() / (per_token.size(0) * CAP),
        "dapo": lambda: (per_token * mask).sum() / mask.sum(),
    }[loss_type]()
    loss.backward()
    is_low = (coef_1 < 1 - low) & (advantages < 0)
    is_high = (coef_1 > 1 + high) & (advantages > 0)
    told = {"low_mean": is_low, "high_mean": is_high, "region_mean": is_low | is_high}
    told = {f"clip_ratio/{name}": ((x * mask).sum() / mask.sum()).item() for name, x in told.items()}
    told["kl"] = ((kl * mask).sum() / mask.sum()).item()
    return loss.item(), new.grad.numpy(), told


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(f"{x}" for x in v.values()))
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_equal_trl(loss_type, variant):
    data = tokens(seed=1)
    value, gradient = ours(loss_type, variant, data)
    expected, expected_gradient, _ = trl(loss_type, variant, data)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(f"{x}" for x in v.values()))
def test_clip_ratios_and_kl_are_those_of_trl(variant):
    data = tokens(seed=2)
    ref = data["ref"] if variant["beta"] else None
    _, told = policy_loss(GRPOConfig(**variant), data["new"], data["old"], data["advantage"], ref)
    _, _, expected = trl("dapo", variant, data)
    assert ("kl" in told) == (variant["beta"] > 0)
    for name, values in told.items():
        mean = float(np.asarray(values)[data["mask"]].mean())
        assert mean == pytest.approx(expected[name], rel=1e-5, abs=1e-7)
    assert expected["clip_ratio/low_mean"] > 0
    assert expected["clip_ratio/high_mean"] > 0


@given(
    lengths=st.lists(st.integers(0, CAP), min_size=1, max_size=8),
    loss_type=st.sampled_from(LOSS_TYPES),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_weights_average_as_each_loss_type_says(lengths, loss_type, seed):
    losses = np.random.default_rng(seed).standard_normal((len(lengths), CAP))
    mask = np.arange(CAP) < np.array(lengths)[:, None]
    weights = sequence_weights(loss_type, np.array(lengths), CAP)
    assert (weights[np.array(lengths) == 0] == 0).all()
    told = (losses * mask * weights[:, None]).sum()
    assert told == pytest.approx(oracle.aggregate(loss_type, losses, mask, CAP), abs=1e-12)


def test_an_update_without_a_token_in_the_loss_has_weight_zero():
    for loss_type in LOSS_TYPES:
        assert sequence_weights(loss_type, np.zeros(3, int), CAP).tolist() == [0, 0, 0]


def test_the_ratio_is_one_where_old_and_new_agree_and_nothing_is_clipped():
    data = tokens()
    same = jnp.asarray(data["new"])
    losses, told = policy_loss(GRPOConfig(delta=1.5), same, same, data["advantage"], None)
    np.testing.assert_array_equal(losses, -data["advantage"])
    assert all(not value.any() for value in told.values())
    slope = jax.grad(lambda x: policy_loss(GRPOConfig(delta=1.5), x, same, data["advantage"], None)[0].sum())(same)
    np.testing.assert_array_equal(slope, -data["advantage"])


@pytest.mark.parametrize("gap", [-300.0, 300.0])
def test_a_token_that_became_impossible_keeps_loss_and_gradient_finite(gap):
    new, old = jnp.full((1, 1), -1.0 + gap), jnp.full((1, 1), -1.0)
    for advantage, kl in itertools.product((-1.0, 1.0), ("k1", "k2", "k3")):
        config = GRPOConfig(beta=0.1, kl_estimator=kl)

        def loss(new, config=config, advantage=advantage):
            return policy_loss(config, new, old, jnp.full((1, 1), advantage), old)[0].sum()

        value, slope = jax.value_and_grad(loss)(new)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators_average_to_the_kl_divergence(estimator):
    """k1 and k3 are unbiased; k2 is right to second order (Schulman 2020). Exact expectations over 50 tokens."""
    random = np.random.default_rng(0)
    logits = random.standard_normal(50)
    policy, reference = (
        np.log(np.exp(x) / np.exp(x).sum()) for x in (logits, logits + 0.1 * random.standard_normal(50))
    )
    told = np.asarray(kl_divergence(jnp.asarray(policy), jnp.asarray(reference), estimator))
    exact = (np.exp(policy) * (policy - reference)).sum()
    assert (np.exp(policy) * told).sum() == pytest.approx(exact, rel=0.05 if estimator == "k2" else 1e-3)
