"""What the authors' released class computes is what preset ``release_faithful`` computes.

``golden.json`` holds outputs of the released class on random inputs; the cases A0 to A6 are written out. The code under
test is reached the way a run reaches it: a configuration, rows of a step, a state that lives through several visits.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from extra_jax.explore.cuts import cut_lengths
from extra_jax.explore.lexical import count_novelty, ngram_codes
from extra_jax.explore.prefix import Prefix, choose, smoothed_scores
from extra_jax.explore.proposals import Proposal, enqueue
from extra_jax.explore.state import ExplorationState

from explore.steps import Visit, config_of
from extra_jax.config import PrefixConfig
from extra_jax.explore.distance import surprise
from extra_jax.learn.estimators import grpo

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
FAITHFUL = config_of({"preset": "release_faithful"}).explore
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("case", GOLDEN["novelty"], ids=lambda c: f"n{c['n']}x{c['prompts']}")
def test_novelty_and_option_b_over_several_visits(case):
    n = case["n"]
    # As written by the release: with group_max the distances themselves are divided by the largest of the group.
    novelty = {"capacity": case["capacity"], "min_history": case["min_history"], "alpha": case["alpha"]}
    if case["group_max_normalised"]:
        novelty["scaling"] = "group_max"
    config = config_of({"preset": "release_faithful", "novelty": novelty}, num_generations=n)
    state = ExplorationState()
    for number, visit in enumerate(case["visits"]):
        rewards = np.array(visit["reward"], np.float64)
        made = Visit(config, state, np.array(visit["embeddings"]), rewards.ravel() > 0, n, step=number).run(rewards)
        unit = made.bonus_of_distance
        assert unit == pytest.approx(np.array(visit["novelty"]), abs=3e-5)  # f32 rounding, divided by a small maximum
        assert made.advantages == pytest.approx(np.array(visit["advantage_option_b"]), abs=2e-5)


@pytest.mark.parametrize("case", GOLDEN["prefix"], ids=lambda c: f"tau{c['tau']}of{len(c['mean_entropy'])}")
def test_smoothed_choice_over_a_bounded_memory(case):
    settings = {"memory_capacity": case["capacity"], "tau": case["tau"]}
    config = config_of({"preset": "release_faithful", "prefix": settings}).explore.prefix
    count = len(case["mean_entropy"])
    vectors = np.array(case["embeddings"], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prefixes = [prefix(case["mean_entropy"][i], vectors[i], tokens=i + 1) for i in range(count)]
    done = enqueue(
        [Proposal(0, prefixes)], [Visit.slot("p0")], ExplorationState(), config,
        real_smoothing="embedding", seed=0, step=0,
    )  # fmt: skip
    assert done.used[0] is prefixes[case["selected"]]
    assert done.queued[0].smoothed == pytest.approx(case["smoothed"], abs=3e-6)


@pytest.mark.parametrize("case", GOLDEN["ngram_count"])
def test_ngram_counts(case):
    counts: Counter[int] = Counter()
    for visit in case["visits"]:
        codes = [ngram_codes(np.array(tokens), case["ngram"]) for tokens in visit["tokens"]]
        assert [count_novelty(c, counts) for c in codes] == pytest.approx(visit["novelty"], abs=1e-6)
        for found, correct in zip(codes, visit["correct"], strict=True):
            if correct:
                counts.update(found.tolist())


@pytest.mark.parametrize("case", GOLDEN["policy_surprise"])
def test_policy_surprise(case):
    groups = np.array(case["group"])
    for group in np.unique(groups):
        rows = groups == group
        logprobs, correct = np.array(case["sequence_logprob"])[rows][None], np.array(case["correct"])[rows][None]
        found = surprise(logprobs, np.ones_like(logprobs), correct, "summed")
        assert found[0] == pytest.approx(np.array(case["novelty"])[rows], abs=1e-5)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (4, [1.5, 0.866, 0.5]),
        (6, [2.041, 1.291, 0.913, 0.645, 0.408]),
        (8, [2.475, 1.62, 1.208, 0.935, 0.725, 0.54, 0.354]),
    ],
)
def test_a0_advantage_of_a_correct_completion(n, expected):
    for k, value in enumerate(expected, start=1):
        rewards = np.array([[1.0] * k + [-1.0] * (n - k)])
        found = grpo(rewards, np.ones((1, n), bool), "group", FAITHFUL.std_epsilon)
        assert found[0, 0] == pytest.approx(value, abs=6e-4)


D = [0.05, 0.02, 0.30, 0.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("rewards", "placement", "expected"),
    [
        ([1, 1, -1, -1, -1, -1], "after", [1.295993, 1.292993] + [-0.645497] * 4),
        ([1, 1, -1, -1, -1, -1], "before", [1.292443, 1.289543] + [-0.645496] * 4),
        ([1] * 6, "after", [0.005, 0.002, 0.03, 0, 0.01, 0.01]),
        ([1] * 6, "before", [-0.415104, -0.69184, 1.891011, -0.876327, 0.046119, 0.046119]),
    ],
)
def test_a1_options_a_and_b(rewards, placement, expected):
    settings = {"placement": placement, "alpha": 0.1, "min_history": 0}
    config = config_of({"preset": "release_faithful", "novelty": settings}, num_generations=6)
    made = Visit.with_distances(config, np.array(D), np.array(rewards) > 0).run(np.array([rewards], np.float64))
    assert made.advantages[0] == pytest.approx(expected, abs=1e-5)  # the release adds in f32


def angle(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_a2_the_history_rule():
    visits = [angle(0, 10, 90), angle(5, 40, 60), angle(5, 5, 200)]
    expected = [(0, 0, 0), (0.003805, 0.060307, 0.060307), (0, 0, 1.766044)]
    config = config_of({"preset": "release_faithful", "novelty": {"capacity": 3}}, num_generations=3)
    state = ExplorationState()
    for step, (vectors, values) in enumerate(zip(visits, expected, strict=True)):
        made = Visit(config, state, vectors, np.ones(3, bool), 3, step=step).run(np.ones((1, 3)))
        assert made.distances[0] == pytest.approx(values, abs=1.5e-6)
    group_max = config_of(
        {"preset": "release_faithful", "novelty": {"capacity": 3, "scaling": "group_max", "alpha": 1.0}},
        num_generations=3,
    )
    state = ExplorationState()
    for step, vectors in enumerate(visits[:2]):
        made = Visit(group_max, state, vectors, np.ones(3, bool), 3, step=step).run(np.ones((1, 3)))
    assert made.bonus[0] == pytest.approx((0.063097, 1, 1), abs=3e-6)


def prefix(score: float, vector: np.ndarray | None = None, tokens: int = 1) -> Prefix:
    return Prefix(np.zeros(tokens, np.int32), score, vector, 0, 0, 1, 0.5, False, False)


@pytest.mark.parametrize(
    ("angles", "scores", "tau", "smoothed", "winner"),
    [
        ((0, 20, 100, 25), (0.50, 0.42, 0.40, 0.46), 0.1, (0.46934, 0.45278, 0.40004, 0.45029), 3),
        ((0, 20, 100, 25), (0.50, 0.42, 0.40, 0.46), 1.0, (0.45487, 0.45153, 0.4307, 0.45054), 3),
        (
            (0, 5, 10, 90, 95, 100),
            (0.39, 0.60, 0.60, 0.45, 0.45, 0.45),
            0.1,
            (0.52558, 0.53089, 0.53605, 0.45002, 0.45001, 0.45),
            6,
        ),
        ((0, 5, 10, 90, 95, 100), (0.39, 0.60, 0.60, 0.45, 0.45, 0.45), 0.01, None, 4),
        ((0, 5, 10, 90, 95, 100), (0.39, 0.60, 0.60, 0.45, 0.45, 0.45), None, None, 1),
    ],
)
def test_a3_selection(angles, scores, tau, smoothed, winner):
    prefixes = [prefix(s, v) for s, v in zip(scores, angle(*angles), strict=True)]
    found = smoothed_scores(prefixes, "none" if tau is None else "embedding", tau or 1.0)
    if smoothed is not None:
        assert found == pytest.approx(smoothed, abs=6e-6)
    assert choose(found, "low", FAITHFUL.prefix.tie, np.ones(len(scores)), RNG).index == winner - 1


@pytest.mark.parametrize(
    ("newlines", "length", "expected"),
    [
        ((5, 20, 40, 45, 100, 110, 200), 260, [6, 41, 101]),
        ((7,), 50, [8]),
        (
            tuple(range(39, 1600, 40)),
            1600,
            [40, 120, 240, 320, 440, 560, 640, 760, 840, 960, 1080, 1160, 1280, 1360, 1480],
        ),
    ],
)
def test_a4_cuts(newlines, length, expected):
    tokens = np.zeros(length, np.int32)
    tokens[list(newlines)] = 1
    assert cut_lengths(tokens, np.array([False, True]), FAITHFUL.prefix) == expected


def test_a5_ngram_count():
    counts: Counter[int] = Counter()
    first, second, other = (ngram_codes(np.array(t), FAITHFUL.novelty.ngram) for t in ([1, 2, 3], [1, 2, 4], [5, 6, 7]))
    assert (count_novelty(first, counts), count_novelty(second, counts)) == (1.0, 1.0)
    counts.update(first.tolist())
    assert (count_novelty(first, counts), count_novelty(other, counts)) == pytest.approx((0.707107, 1.0), abs=1e-6)


def test_a6_policy_surprise():
    logprobs, correct = np.array([[-100.0, -120.0, -110.0, -300.0]]), np.array([[True, True, True, False]])
    found = surprise(logprobs, np.ones((1, 4)), correct, FAITHFUL.novelty.surprise)
    assert found[0] == pytest.approx((0, 1, 0, 0), abs=1e-6)


def test_the_release_settings_are_the_table():
    """The *rel* columns of b.2 and b.3, value by value."""
    n, p = FAITHFUL.novelty, FAITHFUL.prefix
    assert (FAITHFUL.encoder.name, FAITHFUL.encoder.long_text, FAITHFUL.encoder.max_pieces) == (
        "minilm",
        "truncate",
        256,
    )
    assert (n.text_span, n.span_tokens, n.mask_answer, n.pool, n.pool_filter) == ("last", 512, False, "both", "all")
    assert (n.aggregate, n.min_history, n.gate, n.placement, n.centring) == ("nn", "group", "correct", "after", "none")
    assert (n.scaling, n.alpha, n.cap, n.cap_ratio, n.schedule, n.guided) == ("raw", 0.1, None, None, "const", "ignore")
    assert (p.hard_rule, p.hard_max_correct, p.max_truncated, p.warmup_steps, p.source) == (
        "count",
        1,
        None,
        30,
        "min_mte",
    )
    assert (p.cut, p.fallback, p.min_gap, p.max_cuts, p.drop_last) == ("exact_ids", False, 32, 15, True)
    assert (p.min_tokens, p.max_fraction, p.stop_at) == (0, None, ())
    assert (p.score, p.direction, p.smoothing, p.tau, p.tie) == ("cum_mte", "low", "embedding", 0.1, "first")
    assert (p.memory_capacity, p.memory_max_age, p.queue_order, p.queue_capacity) == (128, None, "fifo", 512)
    assert (p.queue_max_age, p.one_per_prompt, p.slots, p.requeue, p.budget) == (None, False, "last", False, "full")
    assert (p.ground_truth, p.negative_advantage, p.max_depth) == ("carried", "keep", None)
    assert int(p.slots_fraction * 512) == 16
    assert PrefixConfig().ground_truth == "carried"
