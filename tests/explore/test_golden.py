"""What the authors' released class computes is what preset ``release_faithful`` computes.

``golden.json`` holds outputs of the released class on random inputs; the cases A0 to A4 are written out. The code under
test is reached the way a run reaches it: a configuration, the transforms and policies that it names, several visits.
Cases of metrics and scalings that the release has and we do not recommend belong to the laboratory (benchmarks).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from explore.steps import Lived, asked, config_with, step_with
from extra_jax.explore import bonus, cap, correct_only, standardise, stateless
from extra_jax.explore.attempts import Prefix, lowest, smoothed_scores
from extra_jax.explore.build import configured
from extra_jax.explore.prefix_settings import PrefixSettings
from extra_jax.explore.prefix_state import PrefixState
from extra_jax.explore.prefixes import Offer, enqueue
from extra_jax.learn.estimators import grpo

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
FAITHFUL = config_with({"preset": "release_faithful"}).explore
RELEASED_EPSILON = 1e-6


def released(**changes: object) -> Lived:
    """The bonus that the preset names."""
    config = config_with({"preset": "release_faithful", "bonus": {"novelty": changes}})
    return Lived(configured(config)[0])


@pytest.mark.parametrize(
    "case",
    [case for case in GOLDEN["novelty"] if not case["group_max_normalised"]],
    ids=lambda c: f"n{c['n']}x{c['prompts']}",
)
def test_novelty_and_option_b_over_several_visits(case):
    pay = released(capacity=case["capacity"], min_history=case["min_history"], alpha=case["alpha"])
    for number, visit in enumerate(case["visits"]):
        rewards, vectors = np.array(visit["reward"], np.float64), np.array(visit["embeddings"])
        step = step_with(rewards > 0, rewards=rewards, vectors=vectors, index=number, epsilon=RELEASED_EPSILON)
        advantages = pay(step, step.advantages)
        distances = [value or 0.0 for value in pay.report["novelty"]]
        assert distances == pytest.approx(np.array(visit["novelty"]), abs=2e-6)
        assert advantages == pytest.approx(np.array(visit["advantage_option_b"]), abs=2e-5)


@pytest.mark.parametrize("case", GOLDEN["prefix"], ids=lambda c: f"tau{c['tau']}of{len(c['mean_entropy'])}")
def test_smoothed_choice_over_a_bounded_memory(case):
    settings = PrefixSettings(**FAITHFUL.prompts["prefixes"], memory_capacity=case["capacity"], tau=case["tau"])
    count = len(case["mean_entropy"])
    vectors = np.array(case["embeddings"], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = [prefix(case["mean_entropy"][i], vectors[i], tokens=i + 1) for i in range(count)]
    step, state = step_with(np.zeros((1, 4)), requests=asked("p0")), PrefixState()
    (entry,) = enqueue(step, state, settings, {0: "hard"}, [Offer(0, pool)])
    assert len(entry.prefix.tokens) == case["selected"] + 1
    assert entry.score == pytest.approx(case["smoothed"], abs=3e-6)


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
        found = grpo(rewards, np.ones((1, n), bool), "group", RELEASED_EPSILON)
        assert found[0, 0] == pytest.approx(value, abs=6e-4)


D = [0.05, 0.02, 0.30, 0.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 1, -1, -1, -1, -1], [1.295993, 1.292993] + [-0.645497] * 4),
        ([1] * 6, [0.005, 0.002, 0.03, 0, 0.01, 0.01]),
    ],
)
def test_a1_option_b(rewards, expected):
    """Distances as given; the bonus is added behind the normalisation of the group."""
    rewards = np.array([rewards], np.float64)
    step = step_with(rewards > 0, rewards=rewards, epsilon=RELEASED_EPSILON)
    settings = FAITHFUL.bonus["novelty"]
    scaled = standardise(settings["alpha"], centring=settings["centring"], scaling=settings["scaling"])
    given = stateless(lambda step, values, state: (np.array([D]), state, {}))
    pay = Lived(bonus(given, correct_only(), scaled, cap(settings["cap_at"], settings["cap_ratio"])))
    assert pay(step, step.advantages)[0] == pytest.approx(expected, abs=1e-5)  # the release adds in f32


def angle(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_a2_the_history_rule():
    visits = [angle(0, 10, 90), angle(5, 40, 60), angle(5, 5, 200)]
    expected = [(0, 0, 0), (0.003805, 0.060307, 0.060307), (0, 0, 1.766044)]
    pay = released(capacity=3)
    for index, (vectors, values) in enumerate(zip(visits, expected, strict=True)):
        pay(step_with(np.ones((1, 3)), vectors=vectors, index=index))
        assert [value or 0.0 for value in pay.report["novelty"]] == pytest.approx(values, abs=1.5e-6)


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
    assert lowest(found, FAITHFUL.prompts["prefixes"]["as_released"], np.random.default_rng(0)) == winner - 1


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
    rules = PrefixSettings(**FAITHFUL.prompts["prefixes"])
    assert rules.lengths(tokens, np.array([False, True])) == expected


def test_the_release_settings_are_the_table():
    """The released values, one by one."""
    n, p = FAITHFUL.bonus["novelty"], PrefixSettings(**FAITHFUL.prompts["prefixes"])
    assert FAITHFUL.encoder == {"long_text": "truncate"}, "and all-MiniLM-L6-v2, the last 512 tokens, by default"
    assert n == {
        "alpha": 0.1, "pool_filter": "all", "capacity": "group", "min_history": "group", "remember_guided": False,
        "centring": "none", "scaling": "raw", "cap_at": None, "cap_ratio": None,
    }  # fmt: skip
    assert (p.hard_max_correct, p.max_truncated, p.warmup_steps, p.source) == (1, None, 30, "lowest_entropy")
    assert (p.cut, p.min_gap, p.max_cuts, p.min_tokens, p.max_fraction, p.stop_at) == (
        "as_released",
        32,
        15,
        0,
        None,
        (),
    )
    assert (p.smoothing, p.tau, p.chooser, p.as_released) == ("embedding", 0.1, "lowest_entropy", True)
    assert (p.memory_capacity, p.memory_max_age, p.queue_capacity, p.queue_max_age) == (128, None, 512, None)
    assert (p.budget, p.max_depth) == ("full", None)
    assert int(p.guided_fraction * 512) == 16
