"""Histograms, deciles and correlations against brute force; advantages pass untouched; a restart changes nothing."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from explore.steps import Lived, asked, guided, step_with, waiting
from scipy.stats import spearmanr

from benchmarks.exploration.lab.diagnostics import diagnostics, effective_size, histogram


def bins(report: dict[str, float], name: str) -> list[float]:
    return [value for key, value in sorted(report.items()) if key.startswith(f"{name}_")]


@pytest.mark.parametrize("size", [3, 8, 10, 20, 30])
def test_a_share_on_an_edge_belongs_to_the_bin_above(size):
    for count in (10, 20):
        for k in range(size + 1):
            expected = min(math.floor(Fraction(k, size) * count), count - 1)
            shares = histogram("x", [k / size], count)
            assert list(shares.values()) == [float(i == expected) for i in range(count)]


def test_histograms_keep_everything_and_name_their_bins_in_order():
    assert histogram("x", [], 10) == {}
    shares = histogram("x", [-0.5, 0.0, 0.04, 0.97, 1.0, 1.5], 20)
    assert list(shares) == [f"x_{i:02d}" for i in range(20)]
    assert (shares["x_00"], shares["x_19"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_effective_sample_size():
    advantages = np.random.default_rng(1).normal(size=48) * (np.arange(48) % 3 > 0)
    report = effective_size(advantages)
    total = sum(abs(a) for a in advantages)
    assert report["advantage_ess"] == pytest.approx(total**2 / sum(a * a for a in advantages))
    assert report["advantage_nonzero_share"] == pytest.approx(32 / 48)
    assert effective_size(np.where(np.arange(48) < 12, -2.0, 0.0))["advantage_ess"] == pytest.approx(12)
    assert effective_size(np.zeros(48))["advantage_ess"] == 0.0


def test_pass_rates_and_entropies_are_those_of_plain_prompts():
    rng = np.random.default_rng(0)
    correct = rng.random((6, 8)) < 0.5
    texts = ["a" * n for n in rng.integers(1, 30, 48)]
    entropies = [rng.random(len(text)).tolist() for text in texts]
    requests = [*asked("p0"), guided(waiting("p1")), *asked("p2", "p3", "p4", "p5")]
    step = step_with(correct, vectors=rng.normal(size=(48, 4)), texts=texts, entropies=entropies, requests=requests)
    run = Lived(diagnostics())
    assert run(step, step.advantages).tobytes() == step.advantages.tobytes()
    expected = np.zeros(10)
    for k in (0, 2, 3, 4, 5):
        expected[min(int(correct[k].sum() * 10) // 8, 9)] += 1 / 5
    assert bins(run.report, "pass_rate_hist") == pytest.approx(expected)
    sums, counts = np.zeros(10), np.zeros(10)
    for row in (r for r in range(48) if r // 8 != 1):
        for t, entropy in enumerate(entropies[row]):
            sums[10 * t // len(entropies[row])] += entropy
            counts[10 * t // len(entropies[row])] += 1
    assert bins(run.report, "entropy_decile") == pytest.approx(sums / counts, rel=1e-6)


def test_similarities_and_the_novelty_of_the_visit_before():
    rng, transform = np.random.default_rng(3), diagnostics()
    run, before = Lived(transform), {}
    written: dict[str, list[np.ndarray]] = {}
    for index in range(2):
        vectors = rng.normal(size=(12, 1, 6)) + 0.5 * rng.normal(size=(12, 8, 6))
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        correct = rng.random((12, 8)) < 0.5
        step = step_with(correct, vectors=vectors.reshape(-1, 6), index=index)
        run(step, step.advantages)
        nearest, now = [], {}
        for k, uid in enumerate(step.uids):
            own = []
            for w in np.flatnonzero(correct[k]):
                pool = written.get(uid, []) + [vectors[k, v] for v in np.flatnonzero(correct[k]) if v != w]
                if pool:
                    own.append(max(float(vector @ vectors[k, w]) for vector in pool))
            nearest += own
            if own:
                now[uid] = 1.0 - np.mean(own)
            written.setdefault(uid, []).extend(vectors[k, correct[k]])
        edges = np.clip(np.floor(np.array(nearest) * 20), 0, 19)
        assert bins(run.report, "similarity_hist") == pytest.approx([(edges == i).mean() for i in range(20)])
        both = [uid for uid in now if uid in before]
        if index == 1:
            expected = spearmanr([now[u] for u in both], [before[u] for u in both]).statistic
            assert run.report["novelty_previous_spearman"] == pytest.approx(expected)
        before |= now
        run.state = transform.load(transform.save(run.state), None)
        assert run.state.novelty == pytest.approx(before, abs=1e-6)


def test_cut_positions_and_depths():
    run, requests = Lived(diagnostics()), asked("p0")
    for index, (fraction, depth) in enumerate([(0.05, 1), (0.3, 1), (0.31, 2), (0.99, 9)], start=1):
        entry = waiting(f"p{index}", depth=depth)
        cut = dataclasses.replace(entry.prefix, fraction=fraction)
        requests.append(guided(dataclasses.replace(entry, prefix=cut)))
    step = step_with(np.zeros((5, 2)), vectors=np.eye(10), requests=requests)
    run(step, step.advantages)
    assert bins(run.report, "cut_decile") == pytest.approx([0.25, 0, 0, 0.5, 0, 0, 0, 0, 0, 0.25])
    assert bins(run.report, "guided_depth") == pytest.approx([0.5, 0.25, 0, 0, 0.25])


def test_words_in_common_among_siblings():
    run = Lived(diagnostics())
    texts = ["abcd", "abcx", "mnop", "zzzz"]
    step = step_with([[True, True, True, False]], vectors=[[1, 0.0], [1, 0.2], [0, 1], [1, 1]], texts=texts)
    run(step, step.advantages)
    assert run.report["novelty_lexical_mean"] == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    # 3 + 3 + 3 + 3 bigrams, of which ab and bc come twice and zz three times
    assert run.report["distinct_ngrams"] == pytest.approx(8 / 12)
