"""What scores are worth: policies for everything that can be wrong with them, against loops over the definition."""

import numpy as np
import pytest

from extra_jax.config import config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.exprl.batch import make_batch, to_rollouts
from extra_jax.exprl.drift import Drift
from extra_jax.exprl.loop import check_settings
from extra_jax.exprl.scored import find_judge, score, unjudged
from extra_jax.exprl.stored import StoredGroups
from extra_jax.judge import store

POLICY = "0" * 16
SIZES = [[3, 1], [2, 4]]  # segments of the rollouts of two groups
LEVELS = [[[2, 4, 3], [3]], [[2, 4], [5, 1, 2, 3]]]


def settings(train=None, **exprl):
    tree = {"model": {"preset": "tiny"}, "exprl": exprl, "train": {"num_generations": 2} | (train or {})}
    return config_from_dict(tree)


def rollout_rows(**changes):
    """Two groups of two; a segment has two tokens. ``changes`` are given as {(group, sample): value}."""
    rows = []
    for g, sizes in enumerate(SIZES):
        for sample, count in enumerate(sizes):
            text = "ab" * count
            row = {
                "rollout_id": f"{g}/{sample}", "group": str(g), "uid": f"p{g}", "sample": sample, "policy": POLICY,
                "text": text, "text_sha": store.text_sha(text), "segment_tokens": [2 * i + 2 for i in range(count)],
                "stop_reason": "stop_token", "verdict": "correct" if sample else "wrong",
            }  # fmt: skip
            rows.append(row | {name: values[g, sample] for name, values in changes.items() if (g, sample) in values})
    return rows


def score_rows(rows, whole=False, lost=()):
    """Scores ``LEVELS``; of whole rollouts the last one. ``lost`` are (rollout id, segment)."""
    found = []
    for row in rows:
        g, sample = map(int, row["rollout_id"].split("/"))
        levels = LEVELS[g][sample][-1:] if whole else LEVELS[g][sample]
        for segment, level in enumerate(levels):
            ok = (row["rollout_id"], segment) not in lost
            found.append(
                {
                    "rollout_id": row["rollout_id"],
                    "segment": segment,
                    "text_sha": row["text_sha"],
                    "status": "ok" if ok else "parse",
                    "score": float(level) if ok else None,
                }
            )
    return found


def process(rows=None, lost=(), config=None, **exprl):
    rows = rollout_rows() if rows is None else rows
    config = config or settings(advantage="process", **exprl)
    return score(rows, score_rows(rows, lost=lost), "prefix", POLICY, config)


def outcome(rows=None, lost=(), train=None, **exprl):
    rows = rollout_rows() if rows is None else rows
    return score(rows, score_rows(rows, whole=True, lost=lost), "rollout", POLICY, settings(train, **exprl))


def test_an_advantage_a_segment_is_given_to_its_tokens():
    scored = process(faithful="paper")
    np.testing.assert_allclose(scored.token_advantages(0), [-0.25, -0.25, 0.5, 0.5, -0.25, -0.25])
    np.testing.assert_allclose(scored.token_advantages(3), np.repeat([0.5, -1, 0.25, 0.25], 2))
    assert [len(scored.token_advantages(i)) for i in range(4)] == [6, 2, 4, 8]
    assert scored.reward.tolist() == [0.5, 0.5, 0.75, 0.5]


def test_outcome_advantages_are_group_relative_and_may_leave_out_the_division():
    scored = outcome()
    half = 0.125 / (np.sqrt(2 * 0.125**2) + 1e-6)
    assert [float(a[0]) for a in scored.advantages] == pytest.approx([0, 0, half, -half])
    assert [len(a) for a in scored.advantages] == [3, 1, 2, 4]
    plain = outcome(train={"scale_rewards": "none"})
    assert [float(a[0]) for a in plain.advantages] == pytest.approx([0, 0, 0.125, -0.125])


def test_the_estimators_reach_the_settings():
    end = process(estimator="end", faithful="code")
    np.testing.assert_allclose(end.advantages[0], [-0.25, 0.25, 0])
    group = process(estimator="group", faithful="code")  # needs token counts and the padded length
    assert group.advantages[1][0] == pytest.approx(0.5, abs=1e-3)
    raw = process(estimator="raw", outcome_mix=2.0, faithful="paper")
    step = 0.125 / (np.sqrt(2 * 0.125**2) + 1e-6)
    np.testing.assert_allclose(raw.advantages[2], np.array([0.25, 0.75]) + 2 * step)
    single = process(single_segment="raw", faithful="paper")
    assert single.advantages[1].tolist() == [0.5]


def test_a_rollout_with_an_unscored_segment_is_left_out_and_counted():
    scored = process(lost=[("0/0", 1)], faithful="paper")
    assert scored.learned.tolist() == [False, True, True, True]
    assert not scored.token_advantages(0).any()
    metrics = scored.metrics()
    assert metrics["judge/parse"] == pytest.approx(0.1)
    assert metrics["judge/learned"] == 0.75
    assert outcome(lost=[("0/0", 0)]).learned.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("policy", "reward", "learned"),
    [("keep", 0.75, True), ("zero", 0.0, True), ("penalty", 0.25, True), ("mask", 0.75, False)],
)
def test_over_long_traces(policy, reward, learned):
    rows = rollout_rows(stop_reason={(1, 0): "length"})
    scored = outcome(rows, overlong=policy, train={"scale_rewards": "none"})
    assert scored.learned[2] == learned
    expected = (reward - 0.5) / 2 if learned else 0.0
    assert scored.advantages[2][0] == pytest.approx(expected)
    assert scored.reward[2] == 0.75, "what the judge said stays visible"


def test_an_over_long_trace_without_a_score_is_dropped_and_not_zeroed():
    rows = rollout_rows(stop_reason={(1, 0): "length"})
    assert not outcome(rows, lost=[("1/0", 0)], overlong="zero").learned[2]


def test_verified_correctness_is_mixed_into_the_last_score():
    rows = rollout_rows(verdict={(1, 1): "timeout"})
    scored = outcome(rows, verified_mix=0.4)
    np.testing.assert_allclose(scored.reward[:3], [0.6 * 0.5, 0.6 * 0.5 + 0.4, 0.6 * 0.75])
    assert np.isnan(scored.reward[3])
    assert scored.learned.tolist() == [True, True, True, False]
    first = process(verified_mix=0.4, faithful="paper", estimator="raw").advantages[2]
    np.testing.assert_allclose(first, [0.25, 0.6 * 0.75])


def test_scales_that_say_nothing_about_the_middle_drop_it():
    scored = outcome(scale="extremes", min_scored=0.0)
    assert not scored.learned.any()


def test_stale_rollouts():
    rows = rollout_rows(policy={(0, 0): "f" * 16, (0, 1): "f" * 16})
    assert outcome(rows).learned.tolist() == [False, False, True, True]
    assert outcome(rows, stale="use").learned.all()
    assert outcome(rows).metrics()["judge/stale_rollouts"] == 0.5
    with pytest.raises(ExtraError, match="2 of 4 rollouts are not by this policy"):
        outcome(rows, stale="error")


def test_too_few_scores_stop_the_run():
    lost = [("0/0", 0), ("0/1", 0), ("1/0", 0)]
    with pytest.raises(ExtraError, match=r"only 25\.0% of 4 rollouts"):
        outcome(lost=lost)
    assert outcome(lost=lost, min_scored=0.25).learned.sum() == 1


def test_scores_of_the_wrong_kind_are_refused():
    rows = rollout_rows()
    with pytest.raises(ExtraError, match="the judge scored whole rollouts"):
        score(rows, score_rows(rows, whole=True), "rollout", POLICY, settings(advantage="process"))
    with pytest.raises(ExtraError, match="the judge saw single segments"):
        score(rows, score_rows(rows), "segment", POLICY, settings())
    with pytest.raises(ExtraError, match="scale_rewards=batch"):
        outcome(train={"scale_rewards": "batch"})
    with pytest.raises(ExtraError, match=r"train.advantage has no meaning for judge scores"):
        outcome(train={"advantage": "maxrl"})
    assert score(rows, score_rows(rows), "prefix", POLICY, settings()).reward.tolist() == [0.5, 0.5, 0.75, 0.5]


def test_metrics_by_hand():
    metrics = outcome().metrics()
    assert metrics["reward"] == pytest.approx(np.mean([0.5, 0.5, 0.75, 0.5]))
    assert metrics["judge/score_correct"] == pytest.approx(0.5)
    assert metrics["judge/score_wrong"] == pytest.approx(0.625)
    assert metrics["judge/auroc"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert metrics["judge/within_prompt_auroc"] == pytest.approx((0.5 + 0) / 2)
    assert metrics["judge/gap"] == pytest.approx(0.5625 - 0.5)
    assert metrics["frac_reward_zero_std"] == 0.5
    assert metrics["judge/segments_mean"] == 2.5
    assert metrics["judge/frac_single_segment"] == 0.25
    only_wrong = outcome(rollout_rows(verdict={(g, 1): "wrong" for g in (0, 1)})).metrics()
    assert "judge/auroc" not in only_wrong
    assert all(np.isfinite(list(only_wrong.values())))


def test_rollouts_without_a_judge_are_worth_what_the_verifier_says():
    scored = unjudged(rollout_rows(verdict={(0, 0): "error"}))
    np.testing.assert_array_equal(scored.reward, [np.nan, 1, 0, 1])
    assert scored.metrics()["judge/gap"] == 0


def test_a_batch_keeps_order_and_groups():
    rows = rollout_rows()
    full = [
        row | {name: [1.0] * row["segment_tokens"][-1] for name in ("token_ids", "logprobs", "log_kept", "entropies")}
        | {"prompt_ids": [5, row["sample"]]}
        for row in rows
    ]  # fmt: skip
    scored = process(rows, faithful="paper")
    batch = make_batch(scored.take([2, 3, 0, 1]), [full[i] for i in (2, 3)], [0, 1], 2)
    assert batch.groups == [0, 0]
    np.testing.assert_allclose(batch.advantages[1], np.repeat([0.5, -1, 0.25, 0.25], 2))
    rollouts = to_rollouts(batch.rows, batch.groups, 2)
    assert rollouts.rollout_ids.tolist() == [0, 1]
    assert rollouts.lengths.tolist() == [4, 8]
    assert rollouts.prompt_ids[1].tolist() == [5, 1]
    assert rollouts.completion_ids(0).tolist() == [1, 1, 1, 1]


def test_settings_without_effect_are_refused():
    with pytest.raises(ExtraError, match=r"train\.max_num_gen_batches=2 has no effect on judge scores"):
        check_settings(settings({"max_num_gen_batches": 2}))
    returning = {"model": {"preset": "tiny"}, "rollout": {"noise": "problem"}}
    with pytest.raises(ExtraError, match=r"rollout\.noise=problem has no effect on judge scores"):
        check_settings(config_from_dict(returning))
    with pytest.raises(ExtraError, match="does not go with judge scores"):
        check_settings(config_from_dict({"model": {"preset": "tiny"}, "explore": {"preset": "corrected"}}))
    check_settings(settings())


def test_which_judge_is_read(tmp_path):
    folder = store.epath.Path(tmp_path)
    with pytest.raises(ExtraError, match="no scores; `extra-jax judge"):
        find_judge(folder, settings())
    store.describe_judge(folder, "a", {"unit": "prefix"})
    assert find_judge(folder, settings()) == ("a", "prefix")
    (tmp_path / "scores" / "b").mkdir()
    assert find_judge(folder, settings(scores="b")) == ("b", "rollout")
    with pytest.raises(ExtraError, match=r"choose one with exprl\.scores=a \| b"):
        find_judge(folder, settings())
    with pytest.raises(ExtraError, match="no scores of c; there are a, b"):
        find_judge(folder, settings(scores="c"))


def test_drift_warns_once_each_time_the_gap_has_widened():
    drift = Drift()
    told = []
    for gap in [0.1] * 5 + [None] + [0.5] * 5 + [0.1] * 5 + [0.9] * 5:
        drift.observe(gap)
        resumed = Drift()
        resumed.restore(drift.state())
        alarm = drift.alarm()
        assert (resumed.alarm() is None) == (alarm is None)
        told.append(alarm)
    assert sum(alarm is not None for alarm in told) == 2
    assert "judge scores have risen by 0.24 more" in next(alarm for alarm in told if alarm)
    assert drift.observe(0.9)["judge/drift"] == pytest.approx(0.8)
    assert Drift().observe(0.3) == {}


def test_stored_groups_are_read_in_any_order_and_once(tmp_path):
    from judge.stores import chain_store

    rows = chain_store(tmp_path, prompts=5, samples=3)
    path = next((tmp_path / "rollouts").glob("*-00000.parquet"))
    path.with_name("copy.parquet").write_bytes(path.read_bytes())
    stored = StoredGroups(store.epath.Path(tmp_path), 3)
    assert len(stored.groups) == 5
    wanted = [rows[9]["group"], rows[0]["group"]]
    assert [row["rollout_id"] for row in stored.read(wanted)] == [row["rollout_id"] for row in rows[9:12] + rows[:3]]
    problems = stored.problems()
    assert [p.uid for p in problems] == list(stored.groups)
    assert all(p.solution is None for p in problems), "training never sees a reference"
    with pytest.raises(ExtraError, match=r"3 rollouts of .* but train\.num_generations=4"):
        StoredGroups(store.epath.Path(tmp_path), 4)
