"""ExpRL from end to end: real processes, a real endpoint, kills, and what every policy prompt holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from judge.stores import judge_server
from training_runs import Launcher, assert_same_run, metric_rows, steps_done

import extra_jax
from extra_jax.config import JudgeConfig, config_from_dict
from extra_jax.data.load import load_data
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.judge import run, store
from extra_jax.telemetry.records import read_rollouts

pytest_plugins = ("training_fixtures",)

# Chains that the small model in the package solves now and then; a segment is a line.
CONFIG = {
    "model": {"path": "tiny-base", "dtype": "float32", "remat": "none"},
    "data": {"source": "chain", "limit": 12, "task": {"steps": [8, 9]}},
    "rollout": {"dtype": "float32", "max_prompt_length": 48, "max_completion_length": 80, "temperature": 1.3},
    "optim": {"learning_rate": 1e-3, "adam_epsilon": 1e-5},
    "train": {
        "max_steps": 3, "prompts_per_step": 4, "num_generations": 4, "num_minibatches": 2, "row_length": 128,
        "micro_batch_rows": 8,
    },
    "exprl": {"segments": {"delimiter": "^(?=.)", "min_tokens": 1}},
    "checkpoint": {"every": 1},
}  # fmt: skip
PROCESS = ("exprl.advantage=process", "judge.rubric=process_prefix_v1", "judge.model=chain-judge")


def config(run_dir: Path, **exprl) -> dict:
    return CONFIG | {"run": {"dir": str(run_dir)}, "exprl": CONFIG["exprl"] | exprl}


@pytest.fixture(scope="module")
def url():
    with judge_server() as address:
        yield address


@pytest.fixture(scope="module")
def sampled(launcher: Launcher, tmp_path_factory) -> Path:
    """A store of rollouts."""
    folder = tmp_path_factory.mktemp("sampled")
    printed = launcher.run("rollout", config(folder / "run"), f"out={folder / 'store'}")
    assert str(folder / "store") in printed
    return folder / "store"


@pytest.fixture(scope="module")
def asking(launcher: Launcher, url: str, tmp_path_factory) -> Path:
    """A run in rounds that asks an endpoint."""
    run_dir = tmp_path_factory.mktemp("asking")
    launcher.run("exprl", config(run_dir), *PROCESS, f"judge.endpoint={url}")
    return run_dir


def rows_of(folder: Path) -> list[dict]:
    return [row for shard in store.rollout_parts(folder) for row in shard.read()]


def test_rollouts_hold_what_judging_and_training_need(sampled: Path) -> None:
    rows, tokenizer = rows_of(sampled), load_tokenizer("tiny")
    problems = {p.uid: p for p in load_data(config_from_dict(CONFIG).data, 0)}
    assert len(rows) == 48
    assert len({row["rollout_id"] for row in rows}) == 48
    assert {row["uid"] for row in rows} == set(problems)
    assert len({row["policy"] for row in rows}) == 1
    for row in rows:
        length = len(row["token_ids"])
        assert length == len(row["logprobs"]) == len(row["entropies"]) == row["segment_tokens"][-1]
        assert tokenizer.decode(row["token_ids"]) == row["text"]
        lines = [len(line) for line in row["text"].splitlines(keepends=True)]
        assert row["segment_chars"] == (np.cumsum(lines).tolist() or [0])
        assert max(row["logprobs"]) <= 0 <= min(row["entropies"])
        assert row["reference"] == problems[row["uid"]].solution
        assert (row["verdict"] == "correct") == row["text"].rstrip("\n").endswith(f"={row['answer']}")


def test_no_policy_prompt_shows_a_line_of_the_reference(sampled: Path) -> None:
    tokenizer = load_tokenizer("tiny")
    for row in rows_of(sampled):
        prompt = tokenizer.decode(row["prompt_ids"])
        assert prompt.rstrip("\n") == row["problem"]
        assert not [line for line in row["reference"].splitlines() if line in prompt]
        assert "=" not in prompt


def test_training_on_stored_scores(launcher: Launcher, sampled: Path, url: str, tmp_path: Path) -> None:
    run.judge(sampled, JudgeConfig(endpoint=url, model="chain-judge", rubric="process_prefix_v1"))
    settings = config(tmp_path, store=str(sampled)) | {"reward": "judge"}
    launcher.run("train", settings, *PROCESS)
    rows = metric_rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["epoch"] == 1
    for row in rows:
        assert (row["judge/scored"], row["judge/learned"], row["judge/stale_rollouts"]) == (1, 1, 0)
        assert row["grad_norm"] > 0
    stored = {row["rollout_id"]: row for row in rows_of(sampled)}
    (judge,) = store.judges(sampled)
    scores = {(row["rollout_id"], row["segment"]): row["score"] for row in store.score_rows(sampled, judge)}
    recorded = [record for step in (1, 2, 3) for record in read_rollouts(tmp_path, step)]
    assert {record["judged"] for record in recorded} == set(stored), "an epoch sees every rollout"
    for record in recorded:
        row = stored[record["judged"]]
        assert record["completion"] == row["text"]
        assert record["segment_chars"] == row["segment_chars"]
        assert record["segment_scores"] == [scores[row["rollout_id"], i] for i in range(len(row["segment_tokens"]))]
        sizes = np.diff(row["segment_tokens"], prepend=0)
        assert np.dot(record["segment_advantages"], sizes) / sizes.sum() == pytest.approx(record["advantage"], abs=1e-4)


def test_rounds_end_alike_whoever_judges_and_whenever_they_are_killed(launcher, url, asking, tmp_path) -> None:
    """One run asks an endpoint. The other waits for somebody's scores, gets those of one round, and is killed while it
    waits for the next; it is continued with the endpoint."""
    patient, endpoint = tmp_path / "patient", f"judge.endpoint={url}"
    rows = metric_rows(asking)
    assert [row["judge/scored"] for row in rows] == [1, 1, 1]
    assert len({row["policy"] for row in rows_of(asking / "store")}) == 3

    running = launcher.start("exprl", config(patient), *PROCESS)
    running.until(lambda: "wait for their scores" in running.printed())
    run.judge(patient / "store", JudgeConfig(endpoint=url, model="chain-judge", rubric="process_prefix_v1"))
    running.kill_when(lambda: running.printed().count("wait for their scores") == 2)
    sampled = {path: path.stat().st_mtime_ns for path in (patient / "store" / "rollouts").iterdir()}
    assert len(sampled) == 2
    launcher.run("exprl", config(patient), *PROCESS, endpoint)
    assert {path: path.stat().st_mtime_ns for path in sampled} == sampled, "what was sampled is not sampled again"
    assert_same_run(patient, asking)


def test_two_processes_learn_what_one_does_and_end_when_their_judge_is_gone(launcher, asking, tmp_path) -> None:
    """The judge is killed after the first step: process 0 alone asks it, and nobody may be left waiting."""
    with judge_server() as own:
        settings = (*PROCESS, f"judge.endpoint={own}", "judge.backoff=0.01", "train.max_steps=1000")
        running = launcher.start_processes("exprl", config(tmp_path), *settings, count=2, devices=1)
        running[0].until(lambda: steps_done(tmp_path) >= 1)
    ours, others = (process.finish(2) for process in running)
    assert f"{own}: nobody answers" in ours
    assert f"process 0 failed: endpoint={own}: nobody answers" in others
    assert "Traceback" not in ours + others
    sampled, expected = (
        {row["rollout_id"]: row["token_ids"] for row in rows_of(run_dir / "store") if row["round"] == 0}
        for run_dir in (tmp_path, asking)
    )
    assert sampled == expected
    assert metric_rows(tmp_path)[0] == pytest.approx(metric_rows(asking)[0], rel=1e-5, abs=1e-5, nan_ok=True)


def test_self_distillation_follows_the_model_that_sees_the_reference(launcher: Launcher, tmp_path: Path) -> None:
    template, model_folder = "{problem}\n{reference}{problem}\n", Path(extra_jax.__file__).parent / "assets/tiny_base"
    settings = config(tmp_path, advantage="self_distillation", teacher_template=template)
    launcher.run("exprl", settings, "train.max_steps=1")
    (row,) = metric_rows(tmp_path)
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(model_folder), load_tokenizer("tiny")
    signals = []
    for rollout in rows_of(tmp_path / "store"):
        filled = template.replace("{problem}", rollout["problem"]).replace("{reference}", rollout["reference"])
        ids, target = tokenizer.encode(filled), rollout["token_ids"]
        logits = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1] / CONFIG["rollout"]["temperature"]
        teacher = torch.log_softmax(logits, -1)[torch.arange(len(target)), target]
        signals.append(np.array(rollout["logprobs"]) - teacher.detach().numpy())
    assert row["distill/reverse_kl"] == pytest.approx(np.concatenate(signals).mean(), rel=1e-4)
    assert row["grad_norm"] > 0
