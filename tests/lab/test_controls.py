"""Controls keep what they claim to keep, destroy what they claim to destroy, and draw by identity."""

import numpy as np
import pytest
from explore.steps import Lived, step_with
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.exploration.lab.controls import RANDOM, Identity, control, controlled
from benchmarks.exploration.lab.lexical import ngram_codes
from benchmarks.exploration.lab.metrics import jaccard, quantile_map
from extra_jax.errors import ExtraError
from extra_jax.explore import Transform, novelty

IDENTITY = Identity(7, 3, ["a", "b", "c", "d", "e"])


def step_of(seed: int, prompts: int = 5, width: int = 6) -> tuple[np.ndarray, np.ndarray, list]:
    rng = np.random.default_rng(seed)
    values, gate = rng.gamma(4.0, 0.05, (prompts, width)), rng.random((prompts, width)) < 0.6
    codes = [[ngram_codes(rng.integers(0, 50, 20), 2) for _ in range(width)] for _ in range(prompts)]
    return values, gate, codes


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_permute_within_keeps_each_groups_multiset_and_sum(seed):
    values, gate, _ = step_of(seed)
    found = controlled("permute_within", values, gate, IDENTITY)
    for k in range(5):
        assert sorted(found[k, gate[k]]) == sorted(values[k, gate[k]])
        assert found[k, gate[k]].sum() == pytest.approx(values[k, gate[k]].sum())
    assert (found[~gate] == values[~gate]).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_permute_across_keeps_the_multiset_of_groups_with_equally_many_correct(seed):
    values, gate, _ = step_of(seed)
    found, size = controlled("permute_across", values, gate, IDENTITY), gate.sum(axis=1)
    for k in np.unique(size):
        rows = size == k
        assert sorted(found[rows][gate[rows]]) == sorted(values[rows][gate[rows]])
    assert (found[~gate] == values[~gate]).all()


def test_random_controls_move_values_and_differ_by_step_and_seed():
    values, gate, codes = step_of(0, prompts=40, width=8)
    uids = [f"p{i}" for i in range(40)]
    for name in RANDOM:
        made = [
            controlled(name, values, gate, Identity(seed, step, uids), codes=codes)
            for seed, step in ((7, 3), (8, 3), (7, 4))
        ]
        assert (made[0] != values)[gate].mean() > 0.4, name
        assert (made[0] != made[1])[gate].mean() > 0.4, name
        # N6 is a fixed function of content: it stays the same over steps, the placebo that does not average out
        assert ((made[0] != made[2])[gate].mean() > 0.4) == (name != "hash"), name
        assert abs(np.corrcoef(made[0][gate], values[gate])[0, 1]) < 0.5, name


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_key_gives_the_same_bonus_whatever_the_order_of_problems(name):
    values, gate, codes = step_of(1)
    found = controlled(name, values, gate, IDENTITY, codes=codes)
    order = np.array([3, 0, 4, 1, 2])
    moved = Identity(7, 3, [IDENTITY.uids[i] for i in order])
    again = controlled(name, values[order], gate[order], moved, codes=[codes[i] for i in order])
    np.testing.assert_allclose(again, found[order], atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "hash"])
def test_matched_controls_have_the_moments_of_the_real_distances(name):
    values, gate, codes = step_of(2, prompts=300, width=8)
    identity = Identity(0, 0, [f"p{i}" for i in range(300)])
    found = controlled(name, values, gate, identity, codes=codes)[gate]
    assert found.min() >= 0.0
    assert found.mean() == pytest.approx(values[gate].mean(), rel=0.05)
    assert found.std() == pytest.approx(values[gate].std(), rel=0.05)


def test_gaussian_is_matched_again_after_clipping():
    values = np.random.default_rng(0).exponential(0.1, (200, 6))  # mean = std: a sixth of the normal lies below 0
    gate = np.ones(values.shape, bool)
    found = controlled("gaussian", values, gate, Identity(0, 0, [str(i) for i in range(200)]))
    assert (found == 0).any()
    assert found.mean() == pytest.approx(values.mean(), rel=0.01)
    assert found.std() == pytest.approx(values.std(), rel=0.01)


def test_hash_is_a_function_of_the_set_of_bigrams():
    values, gate, codes = step_of(3)
    gate[:] = True
    codes[1][2] = codes[0][0][::-1]  # the same set in another order
    found = controlled("hash", values, gate, IDENTITY, codes=codes)
    assert found[1, 2] == found[0, 0]


def test_inverse_mirrors_at_the_mean_of_the_group_and_constant_is_one_number():
    values, gate, _ = step_of(4)
    found = controlled("inverse", values, gate, IDENTITY)
    for k in range(5):
        if gate[k].any():
            mean = values[k, gate[k]].mean()
            np.testing.assert_allclose(found[k, gate[k]], 2 * mean - values[k, gate[k]])
    assert (controlled("constant", values, gate, IDENTITY, running_mean=0.25)[gate] == 0.25).all()


@given(st.lists(st.integers(0, 4), min_size=4, max_size=24), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_quantile_map_has_the_order_of_one_and_the_distribution_of_the_other(ranks, seed):
    values, reference = np.array([ranks], float), np.random.default_rng(seed).random((1, len(ranks)))
    gate = np.ones(values.shape, bool)
    mapped = quantile_map(values, reference, gate)[0]
    assert mapped.sum() == pytest.approx(reference.sum())
    for i in range(len(ranks)):
        for j in range(len(ranks)):
            assert (mapped[i] < mapped[j]) == (ranks[i] < ranks[j])
    distinct = np.argsort(np.random.default_rng(seed + 1).random(len(ranks))).astype(float)[None]
    assert sorted(quantile_map(distinct, reference, gate)[0]) == pytest.approx(sorted(reference[0]))


LETTERS = "abcde"


def paid(transform: Transform, seed: int = 0, steps: int = 3) -> np.ndarray:
    """``[12, 8]`` bonus of the last of some steps on fixed vectors and texts."""
    rng, run = np.random.default_rng(seed), Lived(transform)
    for index in range(steps):
        vectors = (rng.normal(size=(12, 1, 16)) + 0.4 * rng.normal(size=(12, 8, 16))).reshape(-1, 16)
        texts = ["".join(rng.choice(list(LETTERS), 12)) for _ in range(96)]
        step = step_with(rng.random((12, 8)) < 0.5, vectors=vectors, texts=texts, index=index)
        values = run(step, step.advantages)
    return values - step.advantages


@pytest.mark.parametrize("name", [*RANDOM, "inverse", "jaccard"])
def test_the_bonus_of_a_control_has_the_size_of_the_real_one(name):
    """After centring, scaling and caps.

    Two completions that are each other's nearest neighbours and alone correct have one distance and no bonus; a control
    breaks such ties, so a few more of its bonuses are not zero.
    """
    real, other = paid(novelty()), paid(jaccard() if name == "jaccard" else control(name))
    assert (other != 0).mean() == pytest.approx((real != 0).mean(), rel=0.15)
    assert np.abs(other).sum() == pytest.approx(np.abs(real).sum(), rel=1e-6)
    assert other.std() == pytest.approx(real.std(), rel=0.2)  # normal draws have lighter tails
    assert np.corrcoef(other.ravel(), real.ravel())[0, 1] < 0.7


def test_the_constant_pays_every_correct_completion_the_same_offset():
    bonuses = paid(control("constant", centring="none", cap_at=None, cap_ratio=None))
    given = bonuses[bonuses != 0]
    assert len(given) > 30
    assert given.min() == pytest.approx(given.max())
    assert given.min() > 0


def test_an_arm_reports_the_real_signals_beside_its_own():
    rng, run = np.random.default_rng(0), Lived(control("permute_across"))
    vectors = rng.normal(size=(96, 16))
    step = step_with(rng.random((12, 8)) < 0.5, vectors=vectors)
    run(step, step.advantages)
    assert run.report["match_sum"] == pytest.approx(1.0)
    used, real = run.report["novelty_used"], run.report["novelty"]
    known = [i for i, x in enumerate(used) if x is not None]
    assert sorted(used[i] for i in known) == pytest.approx(sorted(real[i] for i in known))
    assert [i for i, x in enumerate(run.report["bonus_real"]) if x is not None] == known
    assert run.report["bonus_real"] != run.report["bonus"]


@pytest.mark.parametrize("transform", [control("constant"), control("hash"), jaccard()])
def test_a_control_continues_where_it_was_saved(transform):
    def steps() -> list:
        rng = np.random.default_rng(3)
        texts = ["".join(rng.choice(list(LETTERS), 12)) for _ in range(32)]
        return [step_with(rng.random((4, 8)) < 0.6, vectors=rng.normal(size=(32, 8)), texts=texts) for _ in range(3)]

    whole, first, second = Lived(transform), Lived(transform), Lived(transform)
    expected = [whole(step, step.advantages) for step in steps()]
    for step in steps()[:2]:
        first(step, step.advantages)
    second.state = transform.load(transform.save(first.state), None)
    last = steps()[2]
    assert second(last, last.advantages).tobytes() == expected[2].tobytes()


def test_a_typo_is_named():
    with pytest.raises(ExtraError, match="there is no control 'permute'; there are constant, permute_within"):
        control("permute")
    with pytest.raises(ExtraError, match="did you mean 'pool_filter'"):
        control("hash", pool_filtre="all")
