"""Rollout records and evaluation files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.data.problem import Problem, prompt_text
from extra_jax.errors import ExtraError
from extra_jax.reward.scores import Scores
from extra_jax.telemetry.records import (
    evaluation_rows,
    read_rollouts,
    recorded_steps,
    round_significant,
    write_rollouts,
)
from telemetry.runs import grades_of, problems_of, rollouts_of


def write_two_by_two(run_dir, rollouts=None, **kwargs):
    rollouts = rollouts or rollouts_of(2, 2)
    correct = [True, False, False, True]
    return write_rollouts(
        run_dir, 12, problems_of(2), rollouts, ["a", "b", "ü\n", "d"], grades_of(correct),
        np.array([1.0, 0.0, 0.0, 1.5]), np.array([1.0, -1.0, -1.0, 1.0], np.float32), **kwargs,
    )  # fmt: skip


def test_a_row_holds_everything_about_a_completion(tmp_path):
    rollouts = rollouts_of(2, 2)
    path = write_two_by_two(
        tmp_path,
        rollouts,
        reward_parts={"correct": np.ones(4), "bonus": np.full(4, 0.5)},
        columns={"parent": [None, 3, 4, 5]},
    )
    assert path == tmp_path / "rollouts" / "step_000012.jsonl"
    row = read_rollouts(tmp_path, 12)[3]
    length = int(rollouts.lengths[3])
    logprobs, entropies = row.pop("logprobs"), row.pop("entropies")
    assert row == {
        "step": 12, "rollout_id": 103, "uid": "p1", "source": "sums", "prompt": "What is 1 + <b>1</b>?",
        "completion": "d", "answer": "4", "verdict": "correct", "grader": "sums/1", "grader_detail": "",
        "reward": 1.5, "reward_parts": {"correct": 1.0, "bonus": 0.5}, "advantage": 1.0,
        "stop_reason": str(rollouts.stop_reasons[3]), "prompt_ids": [7, 1],
        "completion_ids": rollouts.tokens[3, :length].tolist(), "parent": 5,
    }  # fmt: skip
    np.testing.assert_allclose(logprobs, rollouts.logprobs[3, :length], rtol=1e-4)
    np.testing.assert_allclose(entropies, rollouts.entropies[3, :length], rtol=1e-4)
    assert all(len(repr(abs(value)).replace("0.", "").lstrip("0")) <= 5 for value in logprobs)


def test_a_chat_prompt_is_readable():
    chat = Problem("c", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}), "4")
    assert prompt_text(chat.prompt) == "[system]\nBe brief.\n\n[user]\n2 + 2?"


def test_rows_of_an_evaluation_are_those_of_training_without_the_numbers_of_each_token(tmp_path):
    rollouts, correct = rollouts_of(2, 2), [True, False, False, True]
    rewards = np.array([1.0, 0.0, 0.0, 1.5])
    parts = {"correct": np.ones(4), "bonus": np.full(4, 0.5)}
    scores = Scores(rewards, np.ones(4, bool), np.array(correct), grades_of(correct), parts)
    rows = evaluation_rows(12, problems_of(2), rollouts, ["a", "b", "ü\n", "d"], scores)
    write_two_by_two(tmp_path, rollouts, reward_parts=parts)
    for row, trained in zip(rows, read_rollouts(tmp_path, 12), strict=True):
        assert row.pop("length") == len(trained["completion_ids"])
        assert row.pop("correct") == (row["verdict"] == "correct")
        assert row == {key: trained[key] for key in row}
        assert trained.keys() - row.keys() == {"advantage", "prompt_ids", "logprobs", "entropies"}


def test_values_that_are_not_finite_are_null(tmp_path):
    rollouts = rollouts_of(2, 2)
    rollouts.lengths[0] = 3
    rollouts.logprobs[0, 1] = -np.inf
    path = write_two_by_two(tmp_path, rollouts)
    assert json.loads(path.read_text().splitlines()[0])["logprobs"][1] is None


@pytest.mark.parametrize("column", ["texts", "extra"])
def test_wrong_lengths_are_refused(tmp_path, column):
    rollouts = rollouts_of(2, 2)
    if column == "extra":
        with pytest.raises(ValueError, match="extra has 1 entries for 4 completions"):
            write_two_by_two(tmp_path, rollouts, columns={"extra": [1]})
    else:
        with pytest.raises(ValueError, match="entries for 3"):
            write_two_by_two(tmp_path, replace(rollouts, rollout_ids=rollouts.rollout_ids[:3]))


def test_a_column_cannot_replace_a_standard_one(tmp_path):
    with pytest.raises(ValueError, match="'reward'"):
        write_two_by_two(tmp_path, columns={"reward": [0] * 4})


def test_a_failed_write_leaves_no_record(tmp_path):
    with pytest.raises(TypeError):
        write_two_by_two(tmp_path, columns={"bad": [object()] * 4})
    assert recorded_steps(tmp_path) == []


def test_a_missing_record_names_those_that_exist(tmp_path):
    write_two_by_two(tmp_path)
    with pytest.raises(ExtraError, match="steps with records: 12"):
        read_rollouts(tmp_path, 13)
    with pytest.raises(ExtraError, match="the run has none"):
        read_rollouts(tmp_path / "empty", 0)


def test_a_damaged_record_names_the_row(tmp_path):
    path = write_two_by_two(tmp_path)
    path.write_text(path.read_text().replace('{"step": 12, "rollout_id": 102', '{"step": 12 "rollout_id": 102'))
    with pytest.raises(ExtraError, match=r"step_000012\.jsonl, row 3: not valid JSON"):
        read_rollouts(tmp_path, 12)


magnitudes = st.floats(1e-15, 1e20)


@given(st.one_of(st.just(0.0), magnitudes, magnitudes.map(lambda x: -x)), st.integers(1, 7))
@settings(deadline=None)
def test_rounding_keeps_the_significant_digits(value, digits):
    rounded = float(round_significant(np.asarray(value), digits))
    assert abs(rounded - value) <= 0.500001 * 10.0 ** (1 - digits) * abs(value)
    assert float(f"{rounded:.{digits - 1}e}") == rounded


def test_rounding_keeps_special_values():
    special = np.array([0.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(round_significant(special), special)
    assert round_significant(np.array([0.123456789, 123456.7, -9.99999])).tolist() == [0.12346, 123460.0, -10.0]
