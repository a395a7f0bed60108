"""Comparing arms: the numbers against scipy and by hand, and what must not be compared."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from extra_jax import cli
from extra_jax.errors import ExtraError
from extra_jax.telemetry.comparison import compare, verdict
from telemetry.runs import write_eval

PROBLEMS, SAMPLES = 40, 4


def make_run(folder, name, run_seed, rate, *, step=10, benchmarks=("sums",), **identity):
    """A run whose problems are solved with probability ``rate``, the hard ones less often."""
    generator = np.random.default_rng([run_seed, round(1000 * rate)])
    for benchmark in benchmarks:
        difficulty = np.random.default_rng(7).random((PROBLEMS, 1))
        correct = generator.random((PROBLEMS, SAMPLES)) < rate * (0.5 + difficulty)
        write_eval(folder / name, step, correct, benchmark=benchmark, **identity)
    (folder / name / "config.yaml").write_text(yaml.safe_dump({"run": {"seed": run_seed}}))
    return str(folder / name)


def arms(folder, seeds, rates=(0.3, 0.5), **identity):
    return [
        [make_run(folder, f"{arm}{seed}", seed, rate, **identity) for seed in range(seeds)]
        for arm, rate in zip("ab", rates, strict=True)
    ]


def numbers(path):
    return Path(path) / "evals" / "sums" / "step_000010.json"


def matrix(path):
    return np.array(json.loads(numbers(path).read_text())["correct"]).mean(axis=1)


def test_one_seed_is_compared_problem_by_problem_as_scipy_does(tmp_path):
    (a,), (b,) = arms(tmp_path, 1)
    row = compare([a], [b]).rows[0]
    change = matrix(b) - matrix(a)
    assert (row.benchmark, row.score) == ("sums", "pass@1")
    assert row.difference == pytest.approx(change.mean())
    assert (row.interval, row.p_seeds) == (None, None), "one training says nothing about another"
    expected = stats.bootstrap((change,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert row.problem_interval == pytest.approx((expected.low, expected.high), abs=0.005)
    flips = stats.permutation_test(
        (matrix(a), matrix(b)), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=10_000, rng=1
    )
    assert row.p_problems == pytest.approx(flips.pvalue, abs=0.01)


def test_seeds_are_tested_exactly_as_scipy_does(tmp_path):
    first, second = arms(tmp_path, 6, rates=(0.3, 0.34))
    row = compare(first, second).rows[0]
    means = [[matrix(path).mean() for path in arm] for arm in (first, second)]
    flips = stats.permutation_test(
        tuple(map(np.array, means)), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=np.inf
    )
    assert row.p_seeds == pytest.approx(flips.pvalue)


def test_the_interval_over_problems_only_is_the_narrower_one(tmp_path):
    compared = compare(*arms(tmp_path, 3))
    for row in compared.rows:
        widths = [high - low for low, high in (row.interval, row.problem_interval)]
        assert widths[0] > widths[1] > 0


def test_runs_are_paired_by_seed_and_problems_by_uid_whatever_their_order(tmp_path):
    first, second = arms(tmp_path, 3)
    expected = compare(first, second).rows
    assert compare(first[::-1], second[1:] + second[:1]).rows == expected
    for path in second:
        record = json.loads(numbers(path).read_text())
        record["uids"], record["correct"] = record["uids"][::-1], record["correct"][::-1]
        numbers(path).write_text(json.dumps(record))
    assert compare(first, second).rows == expected


def test_swapping_the_arms_turns_the_sign(tmp_path):
    first, second = arms(tmp_path, 2)
    for row, turned in zip(compare(first, second).rows, compare(second, first).rows, strict=True):
        assert turned.difference == -row.difference
        assert (turned.p_seeds, turned.p_problems, turned.p_holm) == (row.p_seeds, row.p_problems, row.p_holm)
        assert turned.interval == pytest.approx((-row.interval[1], -row.interval[0]), abs=1e-12)


def test_the_mean_over_benchmarks_comes_first(tmp_path):
    compared = compare(*arms(tmp_path, 2, benchmarks=("x", "y")))
    assert [(row.benchmark, row.score) for row in compared.rows] == [
        (name, score) for score in ("pass@1", "pass@4") for name in ("mean", "x", "y")
    ]
    mean, x, y = compared.rows[:3]
    assert mean.difference == pytest.approx((x.difference + y.difference) / 2)
    assert x.interval[1] - x.interval[0] > mean.interval[1] - mean.interval[0]


@pytest.mark.parametrize(
    ("seeds", "rates", "expected"),
    [
        (1, (0.2, 0.6), ["B is better than A", "these two trainings only"]),
        (3, (0.2, 0.6), ["Not conclusive", "no p-value can be below 0.5 after Holm", "7 seeds could decide"]),
        (7, (0.2, 0.6), ["B is better than A", "after Holm"]),
        (7, (0.6, 0.2), ["B is worse than A"]),
        (7, (0.4, 0.4001), ["No evidence of a difference"]),
    ],
)
def test_the_verdict_says_no_more_than_the_data(tmp_path, seeds, rates, expected):
    said = verdict(compare(*arms(tmp_path, seeds, rates)))
    for part in expected:
        assert part in said


def test_a_run_is_compared_with_itself_at_another_step(tmp_path):
    path = make_run(tmp_path, "a", 0, 0.3, step=0)
    make_run(tmp_path, "a", 0, 0.6, step=10)
    compared = compare([f"{path}@0"], [path])
    assert (compared.a[0].step, compared.b[0].step) == (0, 10)
    assert compared.rows[0].difference > 0
    with pytest.raises(ExtraError, match="no evaluation of step 5; there are 0, 10"):
        compare([f"{path}@5"], [path])


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"grader": "dapo/1"}, "sums: grader sums/1 and dapo/1"),
        ({"seed": 5}, "sums: seed 0 and 5"),
        ({"sampling": {"temperature": 0.6}}, "sums: sampling.temperature 1.0 and 0.6"),
        ({"sampling": {"temperature": 1.0, "top_p": 0.9}}, "sums: sampling.top_p None and 0.9"),
        ({"problems": "other"}, "sums: problems: the same identities with other prompts or answers"),
        ({"benchmarks": ("sums", "chain")}, "benchmarks that only one of them has: chain"),
    ],
)
def test_what_was_not_measured_alike_is_refused_by_name(tmp_path, identity, message):
    a, b = make_run(tmp_path, "a", 0, 0.3), make_run(tmp_path, "b", 0, 0.3, **identity)
    with pytest.raises(ExtraError, match="not measured alike") as refused:
        compare([a], [b])
    assert message in str(refused.value)


def test_other_problems_and_samples_are_counted(tmp_path):
    write_eval(tmp_path / "a", 0, np.ones((3, 2)), uids=list("xyz"))
    write_eval(tmp_path / "b", 0, np.ones((4, 4)), uids=list("vwxy"))
    for name in "ab":
        (tmp_path / name / "config.yaml").write_text("run: {seed: 0}")
    with pytest.raises(ExtraError) as refused:
        compare([str(tmp_path / "a")], [str(tmp_path / "b")])
    assert "sums: num_generations 2 and 4" in str(refused.value)
    assert "problems: 3 and 4, of which 1 are only in the first and 2 only in the second" in str(refused.value)


def test_arms_that_cannot_be_paired_are_refused(tmp_path):
    first, second = arms(tmp_path, 3)
    with pytest.raises(ExtraError, match=r"first has seeds \[0, 1, 2\], the second \[0, 1\]"):
        compare(first, second[:2])
    with pytest.raises(ExtraError, match="two runs of seed 0 in one arm"):
        compare([first[0], first[0]], second[:2])
    with pytest.raises(ExtraError, match="different steps"):
        compare([first[0], make_run(tmp_path, "late", 1, 0.3, step=20)], second[:2])
    with pytest.raises(ExtraError, match="there are no evaluations; make one with"):
        compare([str(tmp_path)], second[:1])


def test_the_verb_prints_a_table_a_warning_and_a_verdict(tmp_path, capsys):
    first, second = arms(tmp_path, 2, benchmarks=("x", "y"))
    assert cli.main(["compare", *first, "--with", *second, "--k", "2"]) == 0
    text = capsys.readouterr().out
    for expected in ("2 seeds per arm, paired by problem and seed", "mean", "pass@2", "too narrow", "p Holm", "B - A"):
        assert expected in text
    assert cli.main(["compare", first[0], second[0], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["a"] == [{"run": first[0], "step": 10, "seed": 0}]
    assert len(told["rows"]) == 6
    assert cli.main(["compare", *first, second[0]]) == 2
    assert "A0 A1 A2 --with B0 B1 B2" in capsys.readouterr().err
    assert cli.main(["compare", first[0], second[0], "--k", "8"]) == 2
    assert "pass@8 needs at least 8 samples" in capsys.readouterr().err


def test_comparing_needs_no_jax(tmp_path):
    (a,), (b,) = arms(tmp_path, 1)
    program = (
        "import sys\nfrom extra_jax.cli import main\nassert main(['compare', *sys.argv[1:]]) == 0\n"
        "assert not {'jax', 'flax', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program, a, b], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def changed(path, **keys):
    record = json.loads(numbers(path).read_text()) | keys
    numbers(path).write_text(json.dumps({key: value for key, value in record.items() if value is not None}) + "\n")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"grader": None}, "grader: Field required"),
        ({"step": None}, "step: Field required"),
        ({"uids": "p0"}, "uids: Input should be a valid list"),
        ({"correct": [[1, 0], [0]]}, "correct: not a matrix of 40 problems x 4 samples"),
        ({"correct": [[9] * SAMPLES] * PROBLEMS}, "correct.0.0: Input should be 0 or 1 .got 9"),
        ({"uids": ["p0"] * PROBLEMS}, "uids: there are 40 problems, so as many different identities"),
        ({"num_generations": 10**9}, "not a matrix of 40 problems x 1000000000 samples"),
        ({"summary": {"pass@x": {"mean": 0, "low": 0, "high": 0}}}, "summary"),
        ({"summary": {"pass@8": {"mean": 0.0, "low": 0.0, "high": 0.0}}}, "summary: pass@8 of 4 samples"),
        ({"sampling": []}, "sampling: Input should be a valid dictionary"),
    ],
)
def test_numbers_that_are_damaged_are_refused_with_their_key(tmp_path, keys, fault):
    (a,), (b,) = arms(tmp_path, 1)
    changed(b, **keys)
    with pytest.raises(ExtraError, match=rf"step_000010\.json:\n  .*{fault}"):
        compare([a], [b])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("run: [", "not valid YAML"),
        ("- a", "valid dictionary"),
        ("run: {seed: abc}", "run.seed: Input should be a valid integer"),
        ("run: {seed: true}", "run.seed"),
        ("a: &a [*a]\nrun: " + "[" * 5000, "nested too deep"),
        (None, "there is no such file"),
    ],
)
def test_a_configuration_that_does_not_say_the_seed_is_refused(tmp_path, text, fault):
    (a,), (b,) = arms(tmp_path, 1)
    config = Path(b) / "config.yaml"
    config.unlink()
    if text is not None:
        config.write_text(text)
    with pytest.raises(ExtraError, match=rf"config\.yaml.*{fault}|{fault}.*"):
        compare([a], [b])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data())
def test_any_bytes_of_an_evaluation_may_be_wrong(tmp_path_factory, data):
    run = make_run(tmp_path_factory.mktemp("run"), "a", 0, 0.3)
    content = bytearray(numbers(run).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=9)):
        content[place] = data.draw(st.integers(0, 255))
    numbers(run).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ExtraError):
        compare([run], [run])
