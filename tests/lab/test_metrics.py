"""Other metrics: against the authors' released class, and their memory against a restart."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from explore.steps import Lived, asked, guided, run_info, step_with, waiting

from benchmarks.exploration.lab.lexical import count_novelty, ngram_codes
from benchmarks.exploration.lab.metrics import (
    group_max,
    jaccard_distance,
    ngram_count,
    ngram_rarity,
    policy_surprise,
    surprise,
)
from extra_jax.explore import bonus, chain, correct_only, distance, standardise

GOLDEN = json.loads((Path(__file__).parents[1] / "explore" / "golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["ngram_count"])
def test_ngram_counts(case):
    counts: Counter[int] = Counter()
    for visit in case["visits"]:
        codes = [ngram_codes(np.array(tokens), case["ngram"]) for tokens in visit["tokens"]]
        assert [count_novelty(c, counts) for c in codes] == pytest.approx(visit["novelty"], abs=1e-6)
        for own, correct in zip(codes, visit["correct"], strict=True):
            if correct:
                counts.update(own.tolist())


@pytest.mark.parametrize("case", GOLDEN["policy_surprise"])
def test_policy_surprise(case):
    groups = np.array(case["group"])
    for group in np.unique(groups):
        rows = groups == group
        logprobs, correct = np.array(case["sequence_logprob"])[rows][None], np.array(case["correct"])[rows][None]
        score = surprise(logprobs, np.ones_like(logprobs), correct, "summed")
        assert score[0] == pytest.approx(np.array(case["novelty"])[rows], abs=1e-5)


@pytest.mark.parametrize(
    "case", [c for c in GOLDEN["novelty"] if c["group_max_normalised"]], ids=lambda c: f"n{c['n']}x{c['prompts']}"
)
def test_distances_divided_by_the_largest_of_their_group(case):
    far = distance(pool_filter="all", capacity=case["capacity"], min_history=case["min_history"])
    shaped = standardise(case["alpha"], centring="none", scaling="raw")
    divided, pay = Lived(chain(far, group_max())), Lived(bonus(far, group_max(), correct_only(), shaped))
    for number, visit in enumerate(case["visits"]):
        rewards, vectors = np.array(visit["reward"], np.float64), np.array(visit["embeddings"])
        step = step_with(rewards > 0, rewards=rewards, vectors=vectors, index=number, epsilon=1e-6)
        assert np.nan_to_num(divided(step)).ravel() == pytest.approx(np.array(visit["novelty"]).ravel(), abs=3e-5)
        expected = np.array(visit["advantage_option_b"]).ravel()
        assert pay(step, step.advantages).ravel() == pytest.approx(expected, abs=2e-5)


def test_a5_ngram_count():
    counts: Counter[int] = Counter()
    first, second, other = (ngram_codes(np.array(t), 2) for t in ([1, 2, 3], [1, 2, 4], [5, 6, 7]))
    assert (count_novelty(first, counts), count_novelty(second, counts)) == (1.0, 1.0)
    counts.update(first.tolist())
    assert (count_novelty(first, counts), count_novelty(other, counts)) == pytest.approx((0.707107, 1.0), abs=1e-6)


def test_a6_policy_surprise():
    logprobs, correct = np.array([[-100.0, -120.0, -110.0, -300.0]]), np.array([[True, True, True, False]])
    assert surprise(logprobs, np.ones((1, 4)), correct, "summed")[0] == pytest.approx((0, 1, 0, 0), abs=1e-6)


def test_rarity_falls_with_visits_is_that_of_correct_ones_and_survives_a_restart():
    rare = Lived(ngram_rarity())
    step = step_with([[True, False, True]], texts=["abc", "xyz", "abd"])
    assert rare(step)[0] == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    again = Lived(ngram_rarity())
    again.state = ngram_rarity().load(ngram_rarity().save(rare.state), None)
    assert again.state == rare.state
    # "ab" was written twice by correct completions, "bc" once, "xy" only by a wrong one
    later = step_with([[True, True, True]], texts=["abc", "xyz", "abd"])
    expected = [(1 / np.sqrt(3) + 1 / np.sqrt(2)) / 2, 1.0, (1 / np.sqrt(3) + 1 / np.sqrt(2)) / 2]
    assert again(later)[0] == pytest.approx(expected)


def test_guided_completions_are_counted_and_get_nothing():
    rare = Lived(ngram_rarity())
    step = step_with([[True], [True]], texts=["abc", "abc"], requests=[*asked("p0"), guided(waiting("p1"))])
    assert rare(step).ravel() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert set(rare.state) == {"p0", "p1"}


def test_jaccard_looks_at_siblings_and_history_and_takes_the_quantiles_of_the_real_distances():
    transform = jaccard_distance()
    words, real = Lived(transform), np.array([[0.3, 0.1, np.nan, 0.2]])
    first = step_with([[True, True, False, True]], texts=["abcd", "abcx", "qrst", "mnop"])
    # Jaccard distances: abcd and abcx share ab, bc of 4 -> 0.5 each; mnop 1; so the lower two share a quantile
    assert words(first, real)[0] == pytest.approx([0.15, 0.15, np.nan, 0.3], nan_ok=True)
    words.state = transform.load(transform.save(words.state), None)
    second = step_with([[True, True, True, False]], texts=["abcd", "qrst", "uvwx", "mnop"])
    # abcd was written before; qrst was, but wrong; both it and uvwx are new
    assert words(second, np.array([[0.3, 0.1, 0.2, np.nan]]))[0] == pytest.approx(
        [0.1, 0.25, 0.25, np.nan], nan_ok=True
    )


@pytest.mark.parametrize("arm", [ngram_count(), policy_surprise()])
def test_a_metric_of_its_own_size_pays_alpha(arm):
    rng, run = np.random.default_rng(0), Lived(arm, run_info(group_size=8))
    for index in range(4):
        texts = ["".join(rng.choice(list("abcdef"), rng.integers(5, 15))) for _ in range(96)]
        step = step_with(rng.random((12, 8)) < 0.6, vectors=rng.normal(size=(96, 8)), texts=texts, index=index)
        logprobs = -rng.random((12, 8)) * 20
        step = type(step)(**{**{name: getattr(step, name) for name in step.__dataclass_fields__}, "logprobs": logprobs})
        paid = run(step, step.advantages) - step.advantages
    assert not paid[~step.correct].any()
    assert 0.1 < paid[paid != 0].std() < 0.8, "alpha is 0.5, less what the caps take"


@pytest.mark.parametrize(("setting", "expected"), [({}, 4), ({"remember_guided": False}, 2), ({"capacity": 3}, 3)])
def test_the_memory_of_bigrams_has_the_size_of_that_of_vectors(setting, expected):
    words, requests = Lived(jaccard_distance(**setting)), [*asked("p0"), guided(waiting("p0"))]
    step = step_with(np.ones((2, 2)), texts=["abc", "abd", "abe", "abf"], requests=requests)
    words(step, np.full((2, 2), np.nan))
    assert len(words.state["p0"]) == expected
