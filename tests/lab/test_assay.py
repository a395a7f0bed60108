"""The gate, the contrasts and the counts of an assay, on scores that were made to give a known answer."""

import numpy as np
import pytest

from benchmarks.exploration import assay

STEPS = (0, 20, 40, 60, 80, 100)


def run(rates, problems=40, samples=64, guess=0.005, kinds=2):
    """A run whose problems all pass at a rate, one for each evaluation."""
    return {
        step: np.array([[guess, samples, round(rate * samples), 3, kinds]] * problems, float)
        for step, rate in zip(STEPS, rates, strict=True)
    }


def test_pass_at_k_and_the_guesser_are_those_of_independent_draws():
    rows = np.array([[0.5, 4, 1, 1, 1], [0.0, 4, 4, 1, 1]])
    assert assay.passed(rows, 1) == pytest.approx(100 * (0.25 + 1) / 2)
    assert assay.passed(rows, 2) == pytest.approx(100 * (0.5 + 1) / 2)  # one of four: half of the pairs have it
    assert assay.guessed(rows, 2) == pytest.approx(100 * 0.75 / 2)


def test_coverage_over_time_is_counted_from_the_start_of_the_run():
    rates = (4 / 64, 8 / 64, 8 / 64, 8 / 64, 8 / 64, 8 / 64)
    own = run(rates)
    expected = assay.passed(own[20], 16) - assay.passed(own[0], 16)
    assert assay.ENDPOINTS["cov_auc@16"](own) == pytest.approx(expected)


def test_the_gate_fails_where_a_guesser_is_as_good_and_where_nothing_collapses():
    scores = {}
    for seed, more in ((100, 0), (101, 1)):
        scores["G0", seed] = run([r / 64 for r in (4, 8, 32, 32, 32, 33)])
        scores["M1", seed] = run([r / 64 for r in (4, 9, 33 + more, 33, 33, 34)])
    seen = {row["what"]: row for row in assay.gate(scores)}
    assert seen["base pass@1, %"]["seen"] == 6.25
    assert seen["base pass@1, %"]["passed"]
    assert not seen["pass@16 of G0: own highest - last, points"]["passed"]
    assert seen["gain of pass@1 over the last two evaluations / whole gain"]["passed"]
    guesser = seen["a guesser's pass@16 / the base's"]
    assert guesser["passed"]
    for key in scores:
        scores[key] = {step: np.column_stack([np.full(40, 0.3), rows[:, 1:]]) for step, rows in scores[key].items()}
    assert not {row["what"]: row for row in assay.gate(scores)}["a guesser's pass@16 / the base's"]["passed"]


def test_contrasts_pair_seeds_leave_out_the_pilot_and_correct_within_the_primary_ones():
    scores = {}
    for seed in (0, 1, 2, 3, 4, 5, 6, 100):
        scores["G0", seed] = run([(4 + seed % 3) / 64] * 6, kinds=1)
        scores["N1", seed] = run([(6 + seed % 3) / 64] * 6, kinds=2)
        if seed != 6:
            scores["N2", seed] = run([(4 + seed % 3) / 64] * 6, kinds=1)
    rows = {(row["assay"], row["endpoint"], row["a"], row["b"]): row for row in assay.contrasts(scores)}
    kinds = rows["A", "kinds", "N1", "N2"]
    assert (kinds["seeds"], kinds["mean"]) == (6, 1)
    assert kinds["p"] == pytest.approx(2 / 2**6, abs=1e-4)
    assert rows["secondary", "pass@1", "N1", "G0"]["seeds"] == 7
    assert kinds["p_holm"] == pytest.approx(3 * kinds["p"], abs=1e-3)  # three contrasts of six seeds, two of one p
    assert kinds["verdict"] == "not supported"
    assert not any(row["a"] == "F2" for row in rows.values()), "arms without runs give no row"


def test_an_arm_that_is_worse_everywhere_is_contradicted():
    scores = {}
    for seed in range(9):
        scores["G0", seed] = run([(8 + seed % 3) / 64] * 6)
        scores["F2", seed] = run([(8 + seed % 3) / 64] + [(5 + seed % 2) / 64] * 5)
    verdicts = {
        row["endpoint"]: row["verdict"] for row in assay.contrasts(scores) if row["a"] == "F2" and "verdict" in row
    }
    assert verdicts == {"pass@1": "contradicted", "pass@16": "contradicted"}
