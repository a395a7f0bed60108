"""Histograms, deciles and correlations against brute force; what they need is bounded and survives a restart."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import spearmanr

from explore.steps import Visit, config_of, rows_of
from explore.test_explorer import GROUP, SMALL, Run
from explore.test_injection import PROBLEMS, prefix
from extra_jax.explore.diagnostics import (
    entropy_deciles,
    histogram,
    note_novelty,
    novelty_diagnostics,
    prefix_diagnostics,
    reward_diagnostics,
)
from extra_jax.explore.injection import Slot
from extra_jax.explore.prefix import Choice
from extra_jax.explore.proposals import Decisions
from extra_jax.explore.state import ExplorationState, Guided
from extra_jax.telemetry.names import METRICS


def slot(index: int, depth: int | None = None) -> Slot:
    problem = PROBLEMS[f"p{index}"]
    if depth is None:
        return Slot(problem, problem)
    entry = Guided(problem.uid, problem.answer, dataclasses.replace(prefix(), depth=depth), 0.0, 0)
    return Slot(problem, problem, entry)


def bins_of(found: dict[str, float], name: str) -> list[float]:
    return [value for key, value in sorted(found.items()) if key.startswith(f"exploration/{name}_")]


@pytest.mark.parametrize("size", [3, 8, 10, 20, 30])
def test_a_share_on_an_edge_belongs_to_the_bin_above(size):
    for bins in (10, 20):
        for k in range(size + 1):
            expected = min(math.floor(Fraction(k, size) * bins), bins - 1)
            found = histogram("x", [k / size], bins)
            assert list(found.values()) == [float(i == expected) for i in range(bins)]


def test_histograms_keep_everything_and_name_their_bins_in_order():
    assert histogram("x", [], 10) == {}
    found = histogram("x", [-0.5, 0.0, 0.04, 0.97, 1.0, 1.5], 20)
    assert list(found) == [f"x_{i:02d}" for i in range(20)]
    assert (found["x_00"], found["x_19"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_pass_rates_and_the_effective_sample_size():
    correct = np.random.default_rng(0).random((6, 8)) < 0.5
    rows = rows_of(np.eye(48), correct.ravel(), 8)
    slots = [slot(0), slot(1, depth=1), *(slot(i) for i in range(2, 6))]
    advantages = np.random.default_rng(1).normal(size=48) * (np.arange(48) % 3 > 0)
    found = reward_diagnostics(rows, slots, advantages)
    expected = np.zeros(10)
    for k in (0, 2, 3, 4, 5):  # the guided one is left out
        expected[min(int(correct[k].sum() * 10) // 8, 9)] += 1 / 5
    assert bins_of(found, "pass_rate_hist") == pytest.approx(expected)
    total = sum(abs(a) for a in advantages)
    assert found["exploration/advantage_ess"] == pytest.approx(total**2 / sum(a * a for a in advantages))
    assert found["exploration/advantage_nonzero_share"] == pytest.approx(32 / 48)
    equal = reward_diagnostics(rows, slots, np.where(np.arange(48) < 12, -2.0, 0.0))
    assert equal["exploration/advantage_ess"] == pytest.approx(12)
    assert reward_diagnostics(rows, slots, np.zeros(48))["exploration/advantage_ess"] == 0.0


def test_entropy_by_tenth_of_the_completion():
    run = Run({"arm": "P1"})
    for _ in range(3):
        run.take(solved=0.2)
    rollouts, sums, counts = run.rollouts, np.zeros(10), np.zeros(10)
    plain = np.repeat([s.guided is None for s in run.slots], GROUP)
    assert not plain.all()
    for row in np.flatnonzero(plain):
        length = int(rollouts.lengths[row])
        for t in range(length):
            sums[10 * t // length] += rollouts.entropies[row, t]
            counts[10 * t // length] += 1
    expected = {f"exploration/entropy_decile_{i}": sums[i] / counts[i] for i in range(10)}
    assert entropy_deciles(rollouts, plain) == pytest.approx(expected)
    assert {f"exploration/{key}": v for key, v in run.metrics.items() if "entropy_decile" in key} == pytest.approx(
        expected
    )


def test_similarities_and_the_novelty_of_the_visit_before():
    config, state, rng = config_of({"arm": "N1"}), ExplorationState(), np.random.default_rng(3)
    before: dict[str, float] = {}
    for step in range(3):
        vectors = (rng.normal(size=(12, 1, 6)) + 0.5 * rng.normal(size=(12, 8, 6))).reshape(-1, 6)
        correct = rng.random(96) < (0.5 if step < 2 else 0.3)
        visit = Visit(config, state, vectors, correct, 8, step=step)
        found = novelty_diagnostics(visit.rows, visit.where, visit.measured, state)
        nearest, now = [], {}
        for k, uid in enumerate(visit.where.uids):
            earlier = state.prompts.get(uid)
            seen = [] if earlier is None else [v for v, ok in zip(earlier.vectors, earlier.correct, strict=True) if ok]
            mine = []
            for row in visit.where.members[k]:
                others = [r for r in visit.where.members[k] if r != row and correct[r]]
                pool = [*seen, *(visit.rows.vectors[r] for r in others)]
                if correct[row] and pool:
                    mine.append(max(float(v @ visit.rows.vectors[row]) for v in pool))
            nearest += mine
            if mine:
                now[uid] = 1.0 - np.mean(mine)
        edges = np.clip(np.floor(np.array(nearest) * 20), 0, 19)
        assert bins_of(found, "similarity_hist") == pytest.approx([(edges == i).mean() for i in range(20)])
        both = [uid for uid in now if uid in before]
        if step:
            expected = spearmanr([now[u] for u in both], [before[u] for u in both]).statistic
            assert found["exploration/novelty_previous_spearman"] == pytest.approx(expected)
        else:
            assert "exploration/novelty_previous_spearman" not in found
        visit.run(np.where(correct, 1.0, 0.0).reshape(12, 8))
        note_novelty(visit.rows, visit.where, visit.measured, state)
        before |= now
        assert {u: p.novelty for u, p in state.prompts.items() if p.novelty is not None} == pytest.approx(before)
        again = ExplorationState.loads(state.dumps())
        assert {u: p.novelty for u, p in again.prompts.items()} == {u: p.novelty for u, p in state.prompts.items()}


def test_cut_positions_and_depths():
    fractions = [0.05, 0.3, 0.31, 0.99]
    pools = [
        [dataclasses.replace(prefix(), fraction=0.5), dataclasses.replace(prefix(), fraction=f)] for f in fractions
    ]
    done = Decisions(real=[Choice(1, np.zeros(2), 1)] * 4, pools=pools)
    slots = [slot(0), slot(1, 1), slot(2, 1), slot(3, 2), slot(4, 9)]
    found = prefix_diagnostics(done, slots, max_depth=None)
    assert bins_of(found, "cut_decile") == pytest.approx([0.25, 0, 0, 0.5, 0, 0, 0, 0, 0, 0.25])
    assert bins_of(found, "guided_depth") == pytest.approx([0.5, 0.25, 0, 0, 0.25])
    assert len(bins_of(prefix_diagnostics(done, slots[:4], max_depth=2), "guided_depth")) == 2
    assert bins_of(prefix_diagnostics(done, slots[:3], max_depth=1), "guided_depth") == [], "they say nothing there"
    assert prefix_diagnostics(Decisions(), slots[:1], max_depth=None) == {}


def test_a_run_logs_them_under_documented_names():
    run, logged = Run({"arm": "F", "prefix": SMALL["prefix"] | {"max_depth": 2}}), {}
    for _ in range(12):
        logged |= run.take(solved=0.4).metrics
    names = ("_hist_", "_decile_", "guided_depth_", "previous_spearman", "advantage_", "truncated_text_share")
    found = {f"exploration/{key}" for key in logged if any(name in key for name in names)}
    found -= {"exploration/guided_depth_max", "exploration/guided_advantage_abs", "exploration/bonus_to_advantage"}
    assert found <= METRICS.keys()
    assert len(found) == 20 + 3 * 10 + 2 + 1 + 2 + 1
    assert run.metrics["truncated_text_share"] == 0.0


def test_the_share_of_truncated_texts_is_that_of_completions_not_of_prefixes():
    run = Run({"arm": "F"})

    class Encoder:
        """Sees the first 20 characters."""

        size, truncated = 4, 0

        def encode(self, texts):
            self.truncated, self.texts = sum(len(text) > 20 for text in texts), [*getattr(self, "texts", ()), *texts]
            return np.ones((len(texts), 4), np.float32)

    run.explorer._encoder = encoder = Encoder()
    for _ in range(3):
        encoder.texts = []
        run.take(solved=0.2)
        assert len(encoder.texts) > len(run.texts), "prefixes were encoded after the completions"
        expected = np.mean([len(text) > 20 for text in encoder.texts[: len(run.texts)]])
        assert 0 < run.metrics["truncated_text_share"] == pytest.approx(expected)
