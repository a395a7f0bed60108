"""Drafts change what is decoded, never what comes out."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from extra_jax.rollout.types import Request, Rollouts
from rollout.tiny import CAP, STOP_IDS, prompts, requests, rollout_weights, sampler

NOISE = 1 << 31


def moved(weights: nnx.State, far: float, seed: int = 0) -> nnx.State:
    """The policy after an update that changes some draws and leaves others."""
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(weights))))
    return jax.tree.map(lambda x: jax.device_put(x + far * jax.random.normal(next(keys), x.shape), x.sharding), weights)


def asked(seen: Rollouts | None = None, prefix: bool = False) -> list[Request]:
    """Groups under noise of their own, with what came out before as drafts; some with a given beginning."""
    wanted = [replace(request, noise=(NOISE + i, 40 * i)) for i, request in enumerate(requests())]
    if prefix:
        wanted = [replace(r, prefix_ids=prompts()[-1][: i % 4 * 2]) for i, r in enumerate(wanted)]
    if seen is None:
        return wanted
    rows = [np.flatnonzero(seen.prompt_index == i) for i in range(len(wanted))]
    return [replace(r, drafts=[seen.completion_ids(row) for row in of]) for r, of in zip(wanted, rows, strict=True)]


def assert_same(reused: Rollouts, fresh: Rollouts) -> None:
    mask = fresh.completion_mask
    assert reused.lengths.tolist() == fresh.lengths.tolist()
    assert (reused.tokens[mask] == fresh.tokens[mask]).all()
    assert reused.stop_reasons == fresh.stop_reasons
    for name in ("logprobs", "entropies", "full_logprobs", "filter_logprob_mass"):
        np.testing.assert_allclose(getattr(reused, name)[mask], getattr(fresh, name)[mask], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("mesh", "far", "settings"),
    [
        ("1", 0.01, {"slots": 3, "chunk": 3}),
        ("1", 0.01, {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "scan": False}),
        ("1", 0.01, {"stop_strings": ("a", "3B")}),
        ("4x2", 0.01, {"slots": 12, "chunk": 5}),
    ],
)
def test_drafts_give_the_tokens_that_decoding_gives(mesh, far, settings):
    """Over several updates; every second step with given prefixes, whose drafts are of other requests."""
    engine = sampler(mesh, **settings)
    weights, seen, kept = rollout_weights(mesh, "float32", settings.get("scan", True)), None, []
    for step in range(4):
        fresh = engine.generate(weights, asked(None, prefix=step >= 2), step)
        reused = engine.generate(weights, asked(seen, prefix=step >= 2), step)
        assert_same(reused, fresh)
        counters = reused.counters
        assert counters.kept_tokens + counters.tokens == fresh.lengths.sum() == fresh.counters.tokens
        kept.append(counters.kept_tokens / fresh.lengths.sum())
        weights, seen = moved(weights, far, step), reused
    assert kept[0] == 0
    assert min(kept[1], kept[3]) > 0.1
    assert max(kept) < 1, "the policy has not changed"


def test_with_the_same_policy_nothing_is_decoded():
    weights = rollout_weights()
    seen = sampler().generate(weights, asked(), 0)
    finished: dict[int, list[int]] = {}
    again = sampler().generate(weights, asked(seen), 1, finished=lambda row, ids: finished.update({row: ids.tolist()}))
    assert_same(again, seen)
    counters = again.counters
    assert (counters.tokens, counters.slot_steps, counters.prefilled) == (0, 0, 0)
    assert counters.drafts == counters.kept_whole == len(seen)
    assert finished == {row: seen.completion_ids(row).tolist() for row in range(len(seen))}


def test_the_noise_of_a_request_stands_for_step_and_rollout():
    usual = sampler().generate(rollout_weights(), requests(), 7)
    named = [replace(request, rollout_id=900 + 8 * i, noise=(7, 8 * i)) for i, request in enumerate(requests())]
    assert_same(sampler().generate(rollout_weights(), named, 3), usual)


def test_a_draft_of_anything_is_harmless():
    """Too long, with stop tokens inside, of other prompts, of some samples only."""
    random = np.random.default_rng(0)
    fresh = sampler().generate(rollout_weights(), asked(), 0)

    def garbage(count: int) -> Sequence[np.ndarray]:
        return [random.choice([*STOP_IDS, 5, 66], int(random.integers(0, 2 * CAP))) for _ in range(count)]

    wanted = [replace(request, drafts=garbage(i)) for i, request in enumerate(asked())]
    wanted[4] = replace(wanted[4], drafts=[np.concatenate([fresh.completion_ids(32)[:2], [0, 1]])])
    assert_same(sampler().generate(rollout_weights(), wanted, 0), fresh)
