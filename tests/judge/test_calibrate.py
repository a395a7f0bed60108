"""Calibration: against scipy and loops, and that a better judge looks better."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from extra_jax import cli
from extra_jax.config import JudgeConfig
from extra_jax.errors import ExtraError
from extra_jax.judge import metrics, run, store
from extra_jax.judge.calibrate import calibrate
from extra_jax.judge.calibration_page import calibration_page

from .stores import chain_store, judge_server

NAN = float("nan")


@st.composite
def judged(draw):
    rows = draw(st.integers(1, 30))
    level = st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, 3.5, NAN])
    return metrics.Judged(
        problem=np.array(sorted(draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)))),
        correct=np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows))),
        score=np.array(draw(st.lists(level, min_size=rows, max_size=rows))),
        length=np.array(draw(st.lists(st.integers(1, 9), min_size=rows, max_size=rows)), float),
    )


def loops(data):
    """Every metric from its definition, one rollout at a time."""
    rows = [(p, c, s) for p, c, s in zip(data.problem, data.correct, data.score, strict=True) if not np.isnan(s)]
    missed = [s < 4 for _, c, s in rows if c]
    fooled = [s >= 4 for _, c, s in rows if not c]
    mean = lambda values: float(np.mean(values)) if values else NAN  # noqa: E731

    def area(some):
        pairs = [(a > b) + (a == b) / 2 for _, c, a in some for _, d, b in some if c and not d]
        return mean(pairs)

    of_problem = [[row for row in rows if row[0] == p] for p in sorted(set(data.problem))]
    several = [group for group in of_problem if len(group) > 1]
    return {
        "false_negative_rate": mean(missed),
        "false_positive_rate": mean(fooled),
        "misplacement": (mean(missed) + mean(fooled)) / 2,
        "pooled_misplacement": mean(missed + fooled),
        "auroc": area(rows),
        "within_prompt_auroc": mean([a for group in of_problem if not np.isnan(a := area(group))]),
        "prompts_with_signal": mean([len({s for _, _, s in group}) > 1 for group in several]),
        "parsed": len(rows) / len(data.score),
    }


@given(judged())
@settings(max_examples=150)
def test_metrics_against_their_definitions(data):
    found = metrics.calibration(data, resamples=3)
    assert {name: metric["value"] for name, metric in found.items()} == pytest.approx(loops(data), nan_ok=True)
    scored = data.scored()
    assert metrics.auroc(scored.score, scored.correct) == pytest.approx(found["auroc"]["value"], nan_ok=True)
    within = metrics.within_prompt_auroc(scored.problem, scored.score, scored.correct)
    assert within == pytest.approx(found["within_prompt_auroc"]["value"], nan_ok=True)


def test_rank_statistics_against_scipy():
    rng = np.random.default_rng(0)
    score, correct = rng.integers(1, 6, 200).astype(float), rng.random(200) < 0.4
    u = stats.mannwhitneyu(score[correct], score[~correct]).statistic
    assert metrics.auroc(score, correct) == pytest.approx(u / (correct.sum() * (~correct).sum()))
    length = score + rng.integers(0, 9, 200)
    assert metrics.spearman(score, length) == pytest.approx(stats.spearmanr(score, length).statistic)
    assert np.isnan(metrics.spearman(np.ones(5), np.arange(5)))


def test_bootstrap_intervals_against_scipy():
    rng = np.random.default_rng(1)
    correct = rng.random(300) < 0.5
    score = np.where(correct, 4, 2) + rng.integers(-1, 2, 300).astype(float)
    data = metrics.Judged(np.arange(300), correct, score, np.ones(300))  # one rollout a problem
    found = metrics.calibration(data, resamples=4000)

    def pooled(wrong, axis):
        return wrong.mean(axis=axis)

    misplaced = ((score >= 4) != correct).astype(float)
    expected = stats.bootstrap((misplaced,), pooled, method="percentile", n_resamples=4000, rng=0).confidence_interval
    metric = found["pooled_misplacement"]
    assert (metric["low"], metric["high"]) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_the_rollouts_of_a_problem_stay_together():
    correct = np.arange(40) % 2 == 0
    score = np.where(correct, 5.0, 1.0)
    score[:20] = 6 - score[:20]  # the judge is right about one problem and wrong about the other
    together = metrics.calibration(metrics.Judged(np.repeat([0, 1], 20), correct, score, score))
    apart = metrics.calibration(metrics.Judged(np.arange(40), correct, score, score))
    assert (together["auroc"]["low"], together["auroc"]["high"]) == (0.0, 1.0)
    assert apart["auroc"]["high"] < 0.9


def test_reliability_shares_and_length():
    data = metrics.Judged(
        problem=np.zeros(6, int),
        correct=np.array([1, 1, 0, 0, 0, 1], bool),
        score=np.array([5, 4.6, 5, 1, NAN, 3]),
        length=np.array([9, 8, 3, 1, 1, 2], float),
    )
    points = {point["score"]: (point["count"], point["correct"]) for point in metrics.reliability(data)}
    assert points[5] == (3, pytest.approx(2 / 3))
    assert points[1] == (1, 0.0)
    assert points[2][0] == 0
    assert np.isnan(points[2][1])
    assert metrics.score_shares(data)["correct"] == pytest.approx([0, 0, 1 / 3, 0, 2 / 3])
    assert metrics.score_shares(data)["wrong"] == pytest.approx([0.5, 0, 0, 0, 0.5])
    assert metrics.length_bias(data)["correct"] == pytest.approx(1.0)


def test_noise_orders_the_embedded_judge_and_the_reference_matters(tmp_path):
    chain_store(tmp_path, prompts=60, samples=5)
    found = {}
    for noise in ("0", "0.3", "0.8"):
        folder = tmp_path / noise
        shutil.copytree(tmp_path / "rollouts", folder / "rollouts")
        with judge_server("--noise", noise, "--seed", "5") as url:
            for condition in ("ref", "noref", "wrongref"):
                run.judge(folder, JudgeConfig(endpoint=url, model="chain-judge", condition=condition))
        (judge,) = calibrate(folder).judges
        found[noise] = {name: c["metrics"] for name, c in judge["conditions"].items()}
        assert judge["missing"] == ["injected", "again"]
    errors = [found[noise]["ref"]["misplacement"]["value"] for noise in ("0", "0.3", "0.8")]
    areas = [found[noise]["ref"]["within_prompt_auroc"]["value"] for noise in ("0", "0.3", "0.8")]
    assert errors[0] < errors[1] < errors[2]
    assert areas[0] > areas[1] > areas[2]
    sharp = found["0"]
    assert sharp["ref"]["misplacement"]["high"] < sharp["noref"]["misplacement"]["low"]
    assert sharp["ref"]["misplacement"]["high"] < sharp["wrongref"]["misplacement"]["low"]


def test_the_verb_writes_a_page_and_strict_json(tmp_path, capsys):
    rows = chain_store(tmp_path, prompts=3)
    scores = [
        {
            "rollout_id": r["rollout_id"],
            "segment": 0,
            "text_sha": store.text_sha(r["text"]),
            "status": "ok",
            "score": 5.0,
        }
        for r in rows
    ]
    store.write_scores(tmp_path, "somebody", "all", scores[1:])
    assert cli.main(["calibrate", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "somebody\n  ref      misplacement 0.500" in shown
    assert "not scored: noref, wrongref" in shown
    (judge,) = json.loads((tmp_path / "calibration.json").read_text(), parse_constant=pytest.fail)
    assert judge["conditions"]["ref"]["units"]["missing"] == 1
    assert judge["conditions"]["ref"]["metrics"]["auroc"]["value"] == 0.5
    page = (tmp_path / "calibration.html").read_text()
    assert "cannot be told from a coin with" in page
    assert page.count("<svg") == 2
    assert "nan" not in page.lower().replace("nanum", "")


def test_nothing_to_compare_is_said(tmp_path):
    with pytest.raises(ExtraError, match="no rollouts in it"):
        calibrate(tmp_path)
    rows = chain_store(tmp_path, prompts=1, samples=1, shards=1)
    with pytest.raises(ExtraError, match="no scores; `extra-jax judge"):
        calibrate(tmp_path)
    name = store.part_name(0, rows[0]["policy"], 0)
    store.write_rollouts(tmp_path, name, [[rows[0] | {"verdict": "timeout"}]])
    with pytest.raises(ExtraError, match="no rollout has a verdict"):
        calibrate(tmp_path)


def test_a_judge_that_obeys_its_traces_and_contradicts_itself_is_found_out(tmp_path, capsys):
    chain_store(tmp_path, prompts=60, samples=5)
    found = {}
    for name, switches in {"firm": (), "weak": ("--gullible", "0.5", "--noise", "0.4")}.items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "rollouts", folder / "rollouts")
        with judge_server(*switches) as url:
            for condition in ("ref", "injected", "again"):
                run.judge(folder, JudgeConfig(endpoint=url, model="chain-judge", condition=condition, temperature=0.7))
        assert cli.main(["calibrate", str(folder)]) == 0
        (found[name],) = calibrate(folder).judges
    printed = capsys.readouterr().out
    firm, weak = found["firm"], found["weak"]
    assert firm["changes"] == {c: {"count": 300, "equal": 1, "mean": 0, "mean_abs": 0} for c in ("injected", "again")}
    assert "asked twice: 100.0% of the scores are equal" in printed
    # Equal by chance: neither replaced, or the random ones, of five levels, happen to agree.
    assert weak["changes"]["again"]["equal"] == pytest.approx(0.6**2 + (1 - 0.6**2) / 5, abs=0.08)
    positive = {c: weak["conditions"][c]["metrics"]["false_positive_rate"] for c in ("ref", "injected")}
    assert positive["injected"]["low"] > positive["ref"]["high"]
    assert "It obeys its traces" in (tmp_path / "weak" / "calibration.html").read_text()
    assert "It obeys its traces" not in (tmp_path / "firm" / "calibration.html").read_text()


def test_asking_again_needs_a_temperature():
    with pytest.raises(ValueError, match="would repeat the same reply"):
        JudgeConfig(condition="again")


def test_no_field_of_a_judge_becomes_an_element(tmp_path):
    """Names of judges, conditions and states come from files; the page has the same elements whatever they say."""

    def tags(text):
        condition = {
            "metrics": {name: {"value": 0.2, "low": 0.1, "high": 0.3} for name in metrics.calibration(one)},
            "reliability": metrics.reliability(one),
            "score_shares": metrics.score_shares(one),
            "length_bias": metrics.length_bias(one),
            "problems": 1, "correct": 3, "wrong": 3, "statuses": {text: 1}, "steps_without_change": 0.5,
        }  # fmt: skip
        judge = {"name": text, "rollouts": 6, "without_verdict": 1, "conditions": {"ref": condition}, "changes": {}}
        found = []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attrs: found.append((tag, sorted(name for name, _ in attrs)))
        parser.feed(calibration_page(text, [judge | {"missing": [text]}]))
        return found

    one = metrics.Judged(np.zeros(6, int), np.arange(6) < 3, np.array([5.0, 5, 1, 1, 5, 3]), np.arange(6.0))
    hostile = tags("<script>alert(1)</script>\"'><img src=x onerror=alert(2)></svg></style>")
    assert hostile == tags("plain")
    assert not {"script", "img"} & {tag for tag, _ in hostile}
