"""The ``eval`` verb as a user starts it: several benchmarks, kill -9, base against trained, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_runs import Launcher, grpo

from extra_jax import cli
from extra_jax.config import config_from_dict
from extra_jax.evaluate import evaluate
from extra_jax.telemetry.evaluations import evaluation_path, read_completions, read_evaluations

pytest_plugins = ("training_fixtures",)

TINY_BASE = Path("tiny-base")
CHAIN = {"source": "chain", "task": {"steps": [1, 1]}, "split": "test", "limit": 10}
PROMPTS = ("10+1\n", "10+3*2\n", "11-4\n")


def settings(run_dir: Path) -> dict:
    """Two benchmarks, sampled in shards of two problems."""
    tree = grpo(TINY_BASE, run_dir)
    return tree | {
        "rollout": tree["rollout"] | {"slots": 2},
        "eval": {"benchmarks": {"chain": CHAIN, "other": CHAIN | {"limit": 4, "split": "train"}}, "num_generations": 4},
    }


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing disturbed; what it printed is in ``printed``."""
    run_dir = tmp_path_factory.mktemp("whole")
    (run_dir / "printed").write_text(launcher.run("eval", settings(run_dir)))
    return run_dir


def problems_done(run_dir: Path, benchmark: str = "chain") -> int:
    path = evaluation_path(run_dir, benchmark, 0, ".part.jsonl")
    return (len(path.read_bytes().split(b"\n")) - 2) // 4 if path.exists() else 0


def test_an_evaluation_killed_twice_ends_bit_identically_and_repeats_nothing(
    launcher: Launcher, whole: Path, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    run = launcher.start("eval", config)
    run.kill_when(lambda: 2 <= problems_done(tmp_path) < 8)
    part = evaluation_path(tmp_path, "chain", 0, ".part.jsonl")
    part.write_bytes(part.read_bytes().replace(b'"step": 0, "rollout_id": 0', b'"step": 0, "kept": 1, "rollout_id": 0'))

    run = launcher.start("eval", config)
    run.kill_when(lambda: evaluation_path(tmp_path, "chain", 0).exists() and problems_done(tmp_path, "other") < 4)
    rows = evaluation_path(tmp_path, "chain", 0, ".jsonl")
    assert rows.read_bytes().count(b'"kept": 1, ') == 1, "what was done before the kill is not done again"
    rows.write_bytes(rows.read_bytes().replace(b'"kept": 1, ', b""))
    written = evaluation_path(tmp_path, "chain", 0).stat().st_mtime_ns

    printed = launcher.run("eval", config)
    assert printed.splitlines()[-8:] == (whole / "printed").read_text().splitlines()[-8:]
    assert evaluation_path(tmp_path, "chain", 0).stat().st_mtime_ns == written, "the finished benchmark is only read"
    for benchmark in ("chain", "other"):
        for suffix in (".json", ".jsonl"):
            ours, theirs = (evaluation_path(folder, benchmark, 0, suffix) for folder in (tmp_path, whole))
            assert ours.read_bytes() == theirs.read_bytes()
        assert not evaluation_path(tmp_path, benchmark, 0, ".part.jsonl").exists()


def test_every_completion_and_the_matrix_are_saved_and_agree_with_the_table(whole: Path) -> None:
    evaluations = read_evaluations(whole)
    assert list(evaluations) == ["chain", "other"]
    printed = (whole / "printed").read_text()
    for name, (record,) in evaluations.items():
        rows = read_completions(whole, name, 0)
        assert len(rows) == 4 * record["num_problems"] == 4 * len(record["uids"])
        correct = np.array([row["verdict"] == "correct" for row in rows]).reshape(-1, 4)
        np.testing.assert_array_equal(record["correct"], correct)
        assert record["summary"]["pass@1"]["mean"] == pytest.approx(correct.mean())
        assert record["summary"]["pass@4"]["mean"] == pytest.approx(correct.any(axis=1).mean())
        assert {"avg@4", "pass@2", "maj@4"} <= record["summary"].keys()
        assert record["mean_length"] == pytest.approx(np.mean([len(row["completion_ids"]) for row in rows]))
        assert [row["rollout_id"] for row in rows] == list(range(len(rows)))
        assert f"{record['summary']['pass@4']['mean']:.3f}" in printed
    assert 0 < evaluations["chain"][0]["summary"]["pass@1"]["mean"] < 1, "otherwise nothing was tested"
    for line in ("pass@1 (avg@4)", "maj@4", "10 x 4 samples", "mean"):
        assert line in printed


def test_training_evaluates_with_the_same_code(
    launcher: Launcher, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = settings(tmp_path)
    config["train"] = config["train"] | {"max_steps": 1, "num_minibatches": 1, "num_iterations": 1, "beta": 0.0}
    config["optim"] = config["optim"] | {"warmup_steps": 0}
    launcher.run("train", config)
    for benchmark in ("chain", "other"):
        first, last = read_evaluations(tmp_path)[benchmark]
        assert first == read_evaluations(whole)[benchmark][0], "before training it is the evaluation of the verb"
        assert (last["step"], last["weights"] != first["weights"]) == (1, True)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["eval_chain_pass@1"] == first_score(whole, "chain")
    assert {"eval_other_pass@4_low", "eval_other_maj@4", "eval_chain_completions/mean_length"} <= metrics[0].keys()
    report = (tmp_path / "report.html").read_text()
    assert "held-out problems of chain" in report
    assert "held-out problems of other" in report

    before = evaluation_path(tmp_path, "chain", 0).stat().st_mtime_ns
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config))
    assert cli.main(["eval", str(again), "--base"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.startswith(("step", "change"))] == ["step", "step", "change"]
    assert evaluation_path(tmp_path, "chain", 0).stat().st_mtime_ns == before, "both were measured by the training"


def first_score(run_dir: Path, benchmark: str) -> float:
    return read_evaluations(run_dir)[benchmark][0]["summary"]["pass@1"]["mean"]


def test_other_settings_are_measured_beside_what_the_run_measured(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    tree = settings(tmp_path)
    other = tree["eval"] | {"temperature": 0.5, "benchmarks": {"chain": CHAIN | {"limit": 3}}}
    (records,) = evaluate(config_from_dict(tree | {"eval": other}))
    assert (records["chain"]["num_problems"], records["chain"]["sampling"]["temperature"]) == (3, 0.5)
    (folder,) = tmp_path.glob("evals/chain/other_*")
    assert records["chain"] == json.loads((folder / "step_000000.json").read_text())
    assert str(folder) in capsys.readouterr().out
    assert read_evaluations(tmp_path) == read_evaluations(whole)


def test_the_seed_of_the_run_changes_neither_problems_nor_draws(whole: Path, tmp_path: Path) -> None:
    (records,) = evaluate(config_from_dict(settings(tmp_path) | {"run": {"dir": str(tmp_path), "seed": 3}}))
    for name, record in records.items():
        assert record == read_evaluations(whole)[name][0]


def write_set(path: Path) -> None:
    rows = [{"id": f"{path.stem}/{i}", "problem": text, "answer": "1"} for i, text in enumerate(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_benchmarks_are_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """``bench=aime24,math500 n=16``, with sets that were fetched into a folder and a file of one's own."""
    for name in ("aime24", "math500", "mine"):
        write_set(tmp_path / f"{name}.jsonl")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(grpo(TINY_BASE, tmp_path / "run") | {"mesh": {"fsdp": 8}}))
    arguments = ["eval", str(config), f"bench=aime24,math500,{tmp_path}/mine.jsonl", "n=2", f"eval.dir={tmp_path}"]
    assert cli.main([*arguments, "--dry-run"]) == 0
    facts = dict(line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert facts["evaluation math500"].strip() == "3 problems of math500 x 2 samples = 6 completions"
    tried = "a right answer is rewarded in 3 of 3 problems tried"
    assert facts["evaluation math500 reward"].strip() == f"math + overlong, correct by math; {tried}"
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["step", "0", "aime24", "math500", "mine", "mean"]
    evaluations = read_evaluations(tmp_path / "run")
    assert list(evaluations) == ["aime24", "math500", "mine"]
    for (record,) in evaluations.values():
        assert (record["num_problems"], record["num_generations"], record["grader"]) == (3, 2, "math/2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bench=aime24", "Fetch it with `extra-jax data fetch aime24 --out data`"),
        ("bench=", "bench= names no benchmark"),
        ("bench=a/x.jsonl,b/x.jsonl", "two benchmarks would have the name 'x'"),
        ("bench=aime23", "source 'aime23' is not known"),
        ("bench=countdown", "say how many problems"),
        ("eval.benchmarks={'a/b': {}}", "'a/b' is no name of a benchmark"),
        ("eval.benchmarks.aime24.limt=3", "unknown key"),
    ],
)
def test_a_benchmark_that_is_not_there_is_explained(
    override: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(grpo(TINY_BASE, tmp_path / "run")))
    for arguments in ([], ["--dry-run"]):
        assert cli.main(["eval", str(config), override, *arguments]) == 2
        assert message in capsys.readouterr().err
