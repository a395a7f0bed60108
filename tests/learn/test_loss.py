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
from extra_jax.learn.batch import TokenBatch
from extra_jax.learn.loss import entropy_weights, grpo_loss, kl_divergence, sequence_weights
from learn import oracle
from learn.oracle import LOSS_TYPES

ROWS, LENGTH, CAP = 6, 9, 11
KINK = 1e-3  # distance from a clip bound below which a finite difference is not the gradient
BOUNDS = (0.8, 1.2, 1.28, 1.5)
CLIPS = [dict(epsilon_high=None), dict(epsilon_high=0.28), dict(epsilon_high=0.28, delta=1.5)]
KLS = [dict(), *(dict(beta=0.3, kl_estimator=kl) for kl in ("k1", "k2", "k3"))]
CISPO = dict(loss_type="cispo", epsilon_high=1.5)
GSPO = dict(importance_sampling_level="sequence")
CORRECTIONS = [
    dict(importance_sampling_correction=how, importance_sampling_clip_max=high, importance_sampling_clip_min=low)
    for how in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    for low, high in [(None, 1.3), (0.7, 1.3), (0.7, None)]
]
VARIANTS = [
    *(clip | kl for clip, kl in itertools.product(CLIPS, KLS)),
    *(kl | dict(use_bias_correction_kl=False) for kl in KLS[1:]),
    *(kl | GSPO | dict(use_bias_correction_kl=corrected) for kl in KLS[1:] for corrected in (False, True)),
    *(dict(loss_type=name, delta=1.5, **KLS[3]) for name in LOSS_TYPES if name != "cispo"),
    *(dict(loss_type=name, delta=1.5, **GSPO) for name in LOSS_TYPES if name != "cispo"),
    *(CISPO | kl for kl in KLS),
    CISPO | GSPO,
    *CORRECTIONS,
    *(dict(top_entropy_quantile=share, beta=0.3) for share in (0.05, 0.2, 0.5)),
    *(dict(entropy_coef=0.7, top_entropy_quantile=share) for share in (0.2, 1.0)),
    GSPO | CORRECTIONS[4] | dict(loss_type="grpo", entropy_coef=0.7, top_entropy_quantile=0.5, beta=0.3, delta=1.5),
    CISPO | CORRECTIONS[1] | dict(entropy_coef=0.7, top_entropy_quantile=0.5, beta=0.3),
]


def name_of(variant: dict) -> str:
    return "-".join(map(str, variant.values()))


def tokens(seed: int = 0) -> dict[str, np.ndarray]:
    """Ratios of tokens and of sequences on both sides of every bound, advantages of both signs, a row that is left
    out; all ``[R, C]``."""
    random = np.random.default_rng(seed)
    old = -random.exponential(1.0, (ROWS, LENGTH))
    ratio = random.uniform(0.4, 2.2, old.shape) * np.array([0.8, 1, 1, 1.2, 1.4, 1])[:, None]
    for bound in BOUNDS:
        ratio = np.where(np.abs(ratio - bound) < 5 * KINK, bound + 10 * KINK, ratio)
    lengths = np.array([9, 4, 0, 1, 7, 9])
    return {
        "new": (old + np.log(ratio)).astype(np.float32),
        "old": old.astype(np.float32),
        "advantage": np.repeat(random.standard_normal((ROWS, 1)), LENGTH, 1).astype(np.float32),
        "ref": (old + 0.4 * random.standard_normal(old.shape)).astype(np.float32),
        "sampler": (old + 0.3 * random.standard_normal(old.shape)).astype(np.float32),
        "entropy": random.exponential(1.0, old.shape).astype(np.float32),
        "policy_entropy": random.exponential(1.0, old.shape).astype(np.float32),
        "mask": np.arange(LENGTH) < lengths[:, None],
        "lengths": lengths,
    }


def ours(variant: dict, data: dict) -> tuple[float, tuple[np.ndarray, np.ndarray], dict[str, float]]:
    """Loss of the update, its gradient with respect to new log-probabilities and entropies, and the metrics."""
    config = GRPOConfig(**variant)
    needed = config.entropy_coef > 0 or config.top_entropy_quantile < 1
    weights = sequence_weights(config.loss_type, data["lengths"], CAP)[:, None] * data["mask"]
    batch = TokenBatch(
        tokens=np.zeros(weights.shape, np.int32),
        positions=np.zeros(weights.shape, np.int32),
        segment_ids=np.ones(weights.shape, np.int32),
        weights=weights.astype(np.float32),
        advantages=data["advantage"],
        sampling_logprobs=data["sampler"],
        old_logprobs=data["old"],
        ref_logprobs=data["ref"] if config.beta else None,
        entropy_weights=np.float32(entropy_weights(data["entropy"], data["mask"], config.top_entropy_quantile))
        if needed
        else None,
    )
    (value, told), gradient = jax.value_and_grad(lambda *x: grpo_loss(config, batch, *x), (0, 1), has_aux=True)(
        jnp.asarray(data["new"]), jnp.asarray(data["policy_entropy"])
    )
    return float(value), jax.device_get(gradient), {name: float(m.total / m.weight) for name, m in told.items()}


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_loss_and_gradient_equal_float64(variant):
    data = tokens()
    config = GRPOConfig(**variant)
    wide = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in data.items()}
    frozen = wide["new"]

    def moved(name: str, at: tuple[int, int], by: float) -> float:
        shift = np.zeros(frozen.shape)
        shift[at] = by
        return oracle.update_loss(config, CAP, wide | {name: wide[name] + shift}, frozen)

    value, gradients, _ = ours(variant, data)
    assert value == pytest.approx(oracle.update_loss(config, CAP, wide, frozen), rel=1e-5, abs=1e-6)
    for name, gradient in zip(("new", "policy_entropy"), gradients, strict=True):
        for at in np.ndindex(*gradient.shape):
            slope = (moved(name, at, 1e-6) - moved(name, at, -1e-6)) / 2e-6
            assert gradient[at] == pytest.approx(slope, rel=1e-4, abs=2e-6), (name, at)


def test_sequences_stay_away_from_the_kinks_and_lie_on_both_sides_of_them():
    data = tokens()
    gaps = (data["new"] - data["old"])[data["lengths"] > 0]
    means = np.exp([row[:n].mean() for row, n in zip(gaps, data["lengths"][data["lengths"] > 0], strict=True)])
    assert min(abs(mean - bound) for mean in means for bound in BOUNDS) > KINK
    assert min(means) < 0.8
    assert max(means) > 1.28


def trl(variant: dict, data: dict) -> tuple[float, tuple[np.ndarray, np.ndarray], dict[str, float]]:
    """``GRPOTrainer._compute_loss`` of TRL 1.16 for one process without gradient accumulation, written anew; where
    we have further KL estimators they stand in for its own."""
    config = GRPOConfig(**variant)
    new, old, advantages, ref, sampler, chosen, entropies = (
        torch.tensor(data[name]) for name in ("new", "old", "advantage", "ref", "sampler", "entropy", "policy_entropy")
    )
    mask = torch.tensor(data["mask"]).float()
    new.requires_grad_()
    entropies.requires_grad_()
    low, high = config.epsilon, config.epsilon_high or config.epsilon
    entropy_mask = torch.ones_like(mask)
    if config.top_entropy_quantile < 1:
        threshold = torch.quantile(chosen[mask.bool()], 1 - config.top_entropy_quantile)
        entropy_mask = ((chosen * mask >= threshold) & mask.bool()).float()
    log_ratio = new - old
    if config.importance_sampling_level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).unsqueeze(-1)
    coef_1 = kl_ratio = torch.exp(log_ratio)
    if config.loss_type == "cispo":
        per_token = -torch.clamp(coef_1, max=high).detach() * advantages * new
    else:
        coef_2 = torch.clamp(coef_1, 1 - low, 1 + high)
        if config.delta is not None:
            coef_1 = torch.clamp(coef_1, max=config.delta)
        per_token = -torch.min(coef_1 * advantages, coef_2 * advantages)
    per_token = per_token * entropy_mask
    ratio = torch.ones_like(mask)
    if mode := config.importance_sampling_correction:
        difference = (old - sampler) * mask
        if mode.startswith("sequence"):
            difference = difference.sum(dim=-1, keepdim=True)
        ratio = torch.exp(difference)
        clip_min, clip_max = config.importance_sampling_clip_min, config.importance_sampling_clip_max
        if mode.endswith("truncate"):
            ratio = torch.clamp(ratio, min=clip_min, max=clip_max)
        else:
            outside = (ratio < (clip_min or -torch.inf)) | (ratio > (clip_max or torch.inf))
            ratio = ratio.masked_fill(outside, 0.0)
        per_token = per_token * ratio
    difference = ref - new
    kl = {"k1": -difference, "k2": difference**2 / 2, "k3": torch.exp(difference) - difference - 1}
    kl = kl[config.kl_estimator]
    if config.use_bias_correction_kl:
        kl = kl * kl_ratio
    if config.beta:
        per_token = per_token + config.beta * kl
    loss = {
        "grpo": lambda: ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean(),
        "bnpo": lambda: (per_token * mask).sum() / mask.sum().clamp(min=1.0),
        "dr_grpo": lambda: (per_token * mask).sum() / (mask.size(0) * CAP),
        "dapo": lambda: (per_token * mask).sum() / mask.sum(),
        "cispo": lambda: (per_token * mask).sum() / mask.sum(),
    }[config.loss_type]()
    both = mask * entropy_mask
    loss = loss - config.entropy_coef * (entropies * both).sum() / both.sum().clamp(min=1.0)
    loss.backward()

    def mean(x: torch.Tensor) -> float:
        counted = mask if x.shape[1] > 1 else (mask.sum(-1, keepdim=True) > 0).float()
        return ((x * counted).sum() / counted.sum()).item()

    is_low = (coef_1 < 1 - low) & (advantages[:, :1] < 0)
    is_high = (coef_1 > 1 + high) & (advantages[:, :1] > 0)
    told = {"low_mean": is_low, "high_mean": is_high, "region_mean": is_low | is_high}
    told = {f"clip_ratio/{name}": mean(x) for name, x in told.items()}
    if config.loss_type == "cispo":
        told = {"cispo_clip_ratio": mean((coef_1 > high) & (advantages[:, :1] > 0))}
    told |= {"kl": mean(kl)} if config.beta else {}
    told["sampling/sampling_logp_difference/mean"] = mean((old - sampler).abs())
    told["entropy"] = mean(entropies)
    if config.importance_sampling_correction:
        told["sampling/importance_sampling_ratio/mean"] = mean(ratio.expand_as(mask))
    gradients = new.grad, torch.zeros_like(mask) if entropies.grad is None else entropies.grad
    return loss.item(), tuple(gradient.numpy() for gradient in gradients), told


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_loss_gradient_and_metrics_equal_those_of_trl(variant):
    data = tokens(seed=1)
    value, gradients, told = ours(variant, data)
    expected, expected_gradients, expected_told = trl(variant, data)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for gradient, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, theirs, rtol=1e-4, atol=1e-7)
    assert told == pytest.approx(expected_told, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_entropy_weights_are_a_mean_over_the_tokens_of_highest_entropy(share):
    data = tokens()
    weights = entropy_weights(data["entropy"], data["mask"], share)
    kept = oracle.chosen_by_entropy(data["entropy"], data["mask"], share)
    np.testing.assert_array_equal(weights > 0, kept)
    assert weights.sum() == pytest.approx(1)
    assert len(set(weights[kept])) == 1
    assert not entropy_weights(data["entropy"], np.zeros_like(data["mask"]), share).any()


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


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_ratio_is_one_where_old_and_new_agree_and_nothing_is_clipped(level):
    data = tokens()
    variant = dict(loss_type="dr_grpo", delta=1.5, importance_sampling_level=level)
    value, (slope, _), told = ours(variant, data | {"old": data["new"]})
    weights = sequence_weights("dr_grpo", data["lengths"], CAP)[:, None] * data["mask"]
    np.testing.assert_allclose(slope, -data["advantage"] * weights, rtol=1e-5)
    assert value == pytest.approx(-(data["advantage"] * weights).sum(), rel=1e-5)
    assert all(value == 0 for name, value in told.items() if name.startswith("clip_ratio"))


@pytest.mark.parametrize("gap", [-300.0, 300.0])
@pytest.mark.parametrize("variant", [GSPO, CISPO, *KLS[1:], CORRECTIONS[1], CORRECTIONS[7]], ids=name_of)
def test_a_token_that_became_impossible_keeps_loss_and_gradient_finite(gap, variant):
    data = tokens()
    for moved in ("new", "old"):
        value, gradients, told = ours(variant, data | {moved: data[moved] + np.float32(gap)})
        assert np.isfinite([value, *told.values()]).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_cispo_without_a_cap_of_its_own_is_refused():
    with pytest.raises(ValueError, match="epsilon_high=5"):
        GRPOConfig(loss_type="cispo")
    with pytest.raises(ValueError, match="delta has no effect"):
        GRPOConfig(delta=3.0, **CISPO)


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
