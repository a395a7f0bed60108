"""Evaluation files: what they hold, and that a kill between any two bytes loses at most a shard."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.cli.evaluation import evaluation_table
from extra_jax.errors import ExtraError
from extra_jax.telemetry.evaluations import (
    EvaluationLog,
    evaluation_path,
    flat_metrics,
    guessed_pass_at_k,
    mean_summary,
    read_completions,
    read_evaluations,
)
from extra_jax.telemetry.statistics import pass_at_k
from telemetry.runs import eval_identity, eval_lines, write_eval

CORRECT = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [0, 0]], bool)


def test_an_evaluation_is_stored_with_its_matrix_and_returned_as_metrics(tmp_path):
    correct = np.array([[1, 0], [0, 0], [1, 1]], bool)
    metrics = write_eval(tmp_path, 20, correct, verdicts=np.where(correct, "correct", "timeout"), majority=[0.5, 0, 1])
    assert metrics["eval_pass@1"] == pytest.approx(0.5)
    assert metrics["eval_pass@2"] == pytest.approx(2 / 3)
    assert metrics["eval_maj@2"] == pytest.approx(0.5)
    assert metrics["eval_completions/mean_length"] == 30.0
    assert metrics["eval_completions/clipped_ratio"] == pytest.approx(0.5)
    (stored,) = read_evaluations(tmp_path)["sums"]
    assert stored["correct"] == [[1, 0], [0, 0], [1, 1]]
    assert stored["verdicts"][1] == ["timeout", "timeout"]
    assert (stored["step"], stored["grader"], stored["uids"]) == (20, "sums/1", ["p0", "p1", "p2"])
    assert [row["uid"] for row in read_completions(tmp_path, "sums", 20)] == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_what_a_guess_reaches_is_stored_and_printed_beside_pass_at_k(tmp_path):
    write_eval(tmp_path, 20, CORRECT, guesser=[0.5, 0.25, 0, 1, 0])
    (stored,) = read_evaluations(tmp_path)["sums"]
    assert guessed_pass_at_k(stored, "pass@1") == pytest.approx(1.75 / 5)
    assert guessed_pass_at_k(stored, "pass@2") == pytest.approx((0.75 + 0.4375 + 1) / 5)
    assert guessed_pass_at_k(stored, "maj@2") is None
    lines = evaluation_table({"sums": stored, "other": stored | {"guesser": None}})
    assert lines[2] == ["  by guessing, without a model", "0.350", "-"]
    assert evaluation_table({"other": stored | {"guesser": None}})[2][0] == "pass@2"


def test_metrics_of_several_benchmarks_carry_their_name(tmp_path):
    write_eval(tmp_path, 0, CORRECT)
    (record,) = read_evaluations(tmp_path)["sums"]
    assert flat_metrics(record, "eval_sums_").keys() >= {"eval_sums_pass@1", "eval_sums_pass@1_low"}


def test_a_missing_evaluation_names_those_that_exist(tmp_path):
    write_eval(tmp_path, 3, CORRECT)
    with pytest.raises(ExtraError, match="evaluated steps of sums: 3"):
        read_completions(tmp_path, "sums", 4)


def finish_from(run_dir, log, shard):
    """Does the rest shard by shard; returns which problems that were."""
    lines = eval_lines(7, CORRECT)
    with log:
        start = log.resume(shard)
        for first in range(start, len(CORRECT), shard):
            log.append(lines[2 * first : 2 * (first + shard)])
        log.finish([0.0] * len(CORRECT))
    return start


def begun(run_dir, rows, shard=1, **other):
    """What is there of an evaluation that was begun with so many rows, after another start."""
    with EvaluationLog(run_dir, 7, eval_identity(*CORRECT.shape)) as log:
        log.resume(1)
        log.append(eval_lines(7, CORRECT)[:rows])
    with EvaluationLog(run_dir, 7, eval_identity(*CORRECT.shape, **other)) as log:
        return log.resume(shard)


@given(cut=st.floats(0, 1), shard=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_an_evaluation_cut_after_any_byte_ends_as_if_nothing_had_happened(tmp_path_factory, cut, shard):
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    identity = eval_identity(*CORRECT.shape)
    finish_from(whole, EvaluationLog(whole, 7, identity), shard)

    with EvaluationLog(killed, 7, identity) as log:
        log.resume(shard)
        log.append(eval_lines(7, CORRECT))
    part = evaluation_path(killed, "sums", 7, ".part.jsonl")
    data = part.read_bytes()
    part.write_bytes(data[: round(cut * len(data))])
    start = finish_from(killed, EvaluationLog(killed, 7, identity), shard)
    assert start % shard == 0 or start == len(CORRECT)
    assert not part.exists()
    for suffix in (".json", ".jsonl"):
        ours, theirs = (evaluation_path(folder, "sums", 7, suffix) for folder in (killed, whole))
        assert ours.read_bytes() == theirs.read_bytes()


def test_what_was_done_is_not_done_again(tmp_path):
    assert begun(tmp_path / "two", 9, shard=2) == 4, "of four problems and a half"
    assert begun(tmp_path / "three", 9, shard=3) == 3
    assert begun(tmp_path / "all", 10, shard=3) == 5


@pytest.mark.parametrize(
    "other",
    [{"sampling": {"temperature": 0.7}}, {"weights": "ff"}, {"seed": 1}, {"problems": "q"}, {"grader": "dapo/1"}],
)
def test_an_evaluation_of_something_else_is_neither_continued_nor_reused(tmp_path, other):
    assert begun(tmp_path, 10, **other) == 0
    write_eval(tmp_path, 7, CORRECT)
    assert EvaluationLog(tmp_path, 7, eval_identity(*CORRECT.shape)).finished()["num_problems"] == 5
    assert EvaluationLog(tmp_path, 7, eval_identity(*CORRECT.shape, **other)).finished() is None


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_measurement_with_other_settings_leaves_that_of_the_run_in_its_place(tmp_path):
    write_eval(tmp_path, 7, CORRECT)
    before = files_of(tmp_path)
    for _ in range(2):  # the second time it is only read
        write_eval(tmp_path, 7, CORRECT[:, :1], own=False)
        after = files_of(tmp_path)
        assert before.items() <= after.items()
        assert len(after) == 2 * len(before)
    (other,) = tmp_path.glob("evals/sums/other_*/step_000007.json")
    assert json.loads(other.read_text())["num_generations"] == 1
    assert [record["num_generations"] for record in read_evaluations(tmp_path)["sums"]] == [2]


def test_a_killed_measurement_aside_goes_on(tmp_path):
    write_eval(tmp_path, 7, CORRECT)
    identity = eval_identity(*CORRECT.shape, seed=1)
    with EvaluationLog(tmp_path, 7, identity, own=False) as log:
        log.resume(1)
        log.append(eval_lines(7, CORRECT)[:4])
    with EvaluationLog(tmp_path, 7, identity, own=False) as log:
        assert log.aside
        assert log.resume(1) == 2


def test_an_unfinished_evaluation_of_the_run_is_not_cut_by_another(tmp_path):
    begun(tmp_path, 4)
    before = files_of(tmp_path)
    write_eval(tmp_path, 7, CORRECT, own=False, seed=1)
    assert before.items() <= files_of(tmp_path).items()


def test_the_run_takes_its_place_and_what_was_there_moves_aside(tmp_path):
    """``eval`` was first, training came later: reports and comparisons read what training measured."""
    write_eval(tmp_path, 7, CORRECT[:, :1], own=False)
    before = files_of(tmp_path / "evals" / "sums")
    write_eval(tmp_path, 7, CORRECT)
    assert [record["num_generations"] for record in read_evaluations(tmp_path)["sums"]] == [2]
    (other,) = tmp_path.glob("evals/sums/other_*")
    assert files_of(other) == before
    with EvaluationLog(tmp_path, 7, eval_identity(5, 1), own=False) as log:
        assert log.finished()["num_generations"] == 1, "and is known again there"


def test_an_evaluation_with_missing_problems_is_not_finished(tmp_path):
    with EvaluationLog(tmp_path, 7, eval_identity(*CORRECT.shape)) as log:
        log.resume(1)
        log.append(eval_lines(7, CORRECT)[:8])
        with pytest.raises(ValueError, match="8 rows for 5 problems x 2 samples"):
            log.finish()
    assert read_evaluations(tmp_path) == {}


def test_two_processes_do_not_write_one_evaluation(tmp_path):
    with EvaluationLog(tmp_path, 7, eval_identity(*CORRECT.shape)) as log:
        log.resume(1)
        with (
            EvaluationLog(tmp_path, 7, eval_identity(*CORRECT.shape, seed=1)) as other,
            pytest.raises(ExtraError, match="another process is at this evaluation"),
        ):
            other.resume(1)
        log.append(eval_lines(7, CORRECT))
        log.finish()


def test_numbers_are_strict_json(tmp_path):
    write_eval(tmp_path, 0, CORRECT)
    text = evaluation_path(tmp_path, "sums", 0).read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_the_mean_over_benchmarks_weighs_them_equally(tmp_path):
    generator = np.random.default_rng(0)
    small, large = generator.random((10, 4)) < 0.5, generator.random((90, 4)) < 0.2
    write_eval(tmp_path, 0, small, benchmark="small", majority=[1.0] * 10)
    write_eval(tmp_path, 0, large, benchmark="large")
    evaluations = read_evaluations(tmp_path)
    mean = mean_summary([evaluations["small"][0], evaluations["large"][0]])
    assert list(mean) == ["pass@1", "pass@2", "pass@4"], "no majority, which only one of them has"
    scores = [pass_at_k(4, matrix.sum(1), 2) for matrix in (small, large)]
    assert mean["pass@2"]["mean"] == pytest.approx(np.mean([s.mean() for s in scores]))
    spread = np.sqrt(sum(s.var() / len(s) for s in scores)) / 2  # of independent benchmarks
    assert mean["pass@2"]["high"] - mean["pass@2"]["low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)
