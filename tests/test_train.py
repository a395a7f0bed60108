"""The training loop as a whole: what it leaves behind, that it learns, what it refuses and when it stops."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers
from training_runs import (
    MAX_STEPS,
    Launcher,
    checkpoint_steps,
    grpo,
    metric_rows,
    read_checkpoint,
)

from extra_jax.config import Config, config_from_dict, load_config
from extra_jax.errors import ExtraError
from extra_jax.learn.grpo import Learner
from extra_jax.rollout.session import Finished
from extra_jax.rollout.types import Request, Rollouts, StopReason
from extra_jax.run import check_batches
from extra_jax.run_dir import open_run
from extra_jax.runtime import Runtime
from extra_jax.train import train

pytest_plugins = ("training_fixtures",)


def test_a_run_directory_holds_everything_that_came_of_the_run(uninterrupted: Path, base: Path) -> None:
    assert load_config(uninterrupted / "config.yaml") == config_from_dict(grpo(base, uninterrupted))
    assert json.loads((uninterrupted / "run.json").read_text())["processes"] == 1
    rows = metric_rows(uninterrupted)
    assert [row["step"] for row in rows] == list(range(MAX_STEPS + 1))
    assert [row["step"] for row in rows if "eval_pass@1" in row] == [0, 3, 6]
    assert {"reward", "loss", "grad_norm", "entropy", "kl", "completions/mean_length"} <= rows[1].keys()
    for row in rows[1:]:
        path = uninterrupted / "rollouts" / f"step_{row['step']:06d}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(records) == 32
        assert np.mean([record["reward"] for record in records]) == pytest.approx(row["reward"])
    assert len(list((uninterrupted / "evals" / "chain").glob("step_*.json"))) == 3
    assert checkpoint_steps(uninterrupted) == [3, 6]
    assert "<svg" in (uninterrupted / "report.html").read_text()


def test_the_export_is_the_last_checkpoint_and_loads_with_transformers(uninterrupted: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(uninterrupted / "export")
    arrays = read_checkpoint(uninterrupted)[1]
    embed = next(array for name, array in arrays.items() if name.startswith(".params") and "'embed'" in name)
    np.testing.assert_array_equal(model.get_input_embeddings().weight.detach().numpy(), embed)


def test_a_finished_run_is_made_longer_and_the_reward_rises(
    launcher: Launcher, base: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    launcher.run("train", grpo(base, tmp_path, max_steps=15))
    rewards = [row["reward"] for row in metric_rows(tmp_path)[1:]]
    assert len(rewards) == 15
    assert rewards[:MAX_STEPS] == [row["reward"] for row in metric_rows(uninterrupted)[1:]]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:3]) + 0.06


def test_a_step_whose_completions_are_all_masked_changes_nothing(
    launcher: Launcher, base: Path, tmp_path: Path
) -> None:
    """``mask_truncated_completions`` and no room for a whole completion: there is nothing to learn from."""
    config = grpo(base, tmp_path, mask_truncated_completions=True, max_steps=2) | {"eval": {}}
    launcher.run("train", config, "rollout.max_completion_length=1", "reward.functions=[auto]")
    for row in metric_rows(tmp_path):
        assert (row["completions/clipped_ratio"], row["loss"], row["grad_norm"]) == (1.0, 0.0, 0.0)
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(
    launcher: Launcher, base: Path, tmp_path: Path
) -> None:
    """The advantages of the first step are usual and those of the second absurd: the gradient overflows."""
    (tmp_path / "absurd.py").write_text(
        "import numpy as np\n\ncalls = []\n\n\ndef absurd(rewards, valid):\n    calls.append(1)\n"
        "    return np.where(valid, 1e38 if len(calls) > 1 else 1.0, 0.0)\n"
    )
    config = grpo(base, tmp_path, num_minibatches=1, num_iterations=1, beta=0.0) | {"eval": {}}
    overrides = (f"train.advantage={tmp_path / 'absurd.py'}:absurd", "checkpoint.every=1")
    printed = launcher.start("train", config, *overrides).finish(status=2)
    told = re.search(
        r"step (\d+): the gradient is not finite \(last checkpoint: step (\d+); .*optim.learning_rate", printed
    )
    assert told, printed
    step, arrays, _ = read_checkpoint(tmp_path)
    assert (int(told[1]), int(told[2])) == (step + 1, step)
    rows = metric_rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, step + 1))
    assert "kl" not in rows[0], "beta is 0"
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_eval_repeats_the_last_evaluation_and_does_not_disturb_the_training(
    launcher: Launcher, base: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / "evals" / "chain" / "step_000006.jsonl").unlink()
    being_saved = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp" / "arrays"
    being_saved.mkdir(parents=True)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 7, "time": 1.0, "reward": 0.5}\n')
    written = (tmp_path / "metrics.jsonl").read_bytes()
    launcher.run("eval", grpo(base, tmp_path))
    for name in ("step_000006.jsonl", "step_000006.json"):
        assert (tmp_path / "evals" / "chain" / name).read_bytes() == (
            uninterrupted / "evals" / "chain" / name
        ).read_bytes()
    assert being_saved.exists()
    assert (tmp_path / "metrics.jsonl").read_bytes() == written


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_the_reference_model_exists_only_when_beta_is_positive(
    beta: float, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenEnough(Exception):
        """Ends the run."""

    class Canned:
        """In place of the sampler: completions of one token."""

        def generate(
            self, weights: object, requests: list[Request], step: int, progress: object, finished: Finished
        ) -> Rollouts:
            index = np.repeat(np.arange(len(requests)), 4)
            prompts = [np.array(requests[i].prompt_ids, np.int32) for i in index]
            ones, zeros = np.ones(len(index), np.int32), np.zeros((len(index), 1), np.float32)
            stops = [StopReason.LENGTH] * len(index)
            none = [np.zeros(0, np.int32)] * len(index)
            for row in range(len(index)):
                finished(row, ones[:1])
            return Rollouts(index, index, prompts, ones[:, None], ones, zeros, zeros, stops, none, zeros, zeros)

    def batches(self: Learner, params: object, reference: object, *rest: object) -> None:
        reference_arrays = jax.tree.leaves(reference)
        assert len(reference_arrays) == (len(jax.tree.leaves(params)) if beta else 0)
        assert not {id(array) for array in jax.tree.leaves(params)} & {id(array) for array in reference_arrays}
        raise SeenEnough

    monkeypatch.setattr(Learner, "batches", batches)
    monkeypatch.setattr(Runtime, "sampler", lambda *args, **kwargs: Canned())
    with pytest.raises(SeenEnough):
        train(config_from_dict(grpo(base, tmp_path, beta=beta) | {"eval": {}}))


def test_prompts_that_the_processes_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    config = config_from_dict(grpo(base, Path("unused"), prompts_per_step=6))
    check_batches(config)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ExtraError, match=r"prompts_per_step=6 must be a multiple of 2 processes x .*num_minibatches=2"):
        check_batches(config)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("mesh", {"fsdp": 3}, "needs 3 devices; 8 here"),
        ("rollout", {"max_prompt_length": 4}, "prompts are longer than rollout.max_prompt_length=4"),
        ("data", {"limit": 100_000}, "100000 distinct train problems were asked for"),
    ],
)
def test_bad_input_is_refused_before_anything_runs_and_can_be_mended_in_place(
    section: str, values: dict, message: str, base: Path, tmp_path: Path
) -> None:
    good = grpo(base, tmp_path / "run")
    with pytest.raises(ExtraError, match=message):
        train(config_from_dict(good | {section: {**good.get(section, {}), **values}}))
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert open_run(config_from_dict(good)) == tmp_path / "run"


def test_a_run_directory_of_another_configuration_is_refused_with_the_differing_keys(
    uninterrupted: Path, base: Path
) -> None:
    def opened(**sections: dict) -> Path:
        tree = grpo(base, uninterrupted)
        return open_run(config_from_dict(tree | {name: {**tree.get(name, {}), **v} for name, v in sections.items()}))

    before = (uninterrupted / "config.yaml").read_bytes()
    with pytest.raises(ExtraError) as refused:
        opened(optim={"learning_rate": 1e-4}, train={"num_generations": 8, "max_steps": 9}, mesh={"tensor": 2})
    assert [line.strip() for line in str(refused.value).splitlines()[1:-1]] == [
        "optim.learning_rate: 0.0005 -> 0.0001",
        "train.num_generations: 4 -> 8",
    ]
    assert (uninterrupted / "config.yaml").read_bytes() == before
    for allowed in (
        {"mesh": {"fsdp": 4, "tensor": 2}},
        {"logging": {"rollouts_every": 0}},
        {"checkpoint": {"every": 1, "keep": 5}},
        {"train": {"micro_batch_rows": 2, "max_steps": 9}},
        {"model": {"remat": "full"}},
    ):
        assert opened(**allowed) == uninterrupted
    opened()


def test_a_cosine_run_is_not_made_longer(tmp_path: Path, base: Path) -> None:
    def config(steps: int) -> Config:
        tree = grpo(base, tmp_path, max_steps=steps)
        return config_from_dict(tree | {"optim": {"lr_scheduler_type": "cosine"}})

    open_run(config(6))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ExtraError, match=r"train\.max_steps: 6 -> 9"):
        open_run(config(9))


def test_a_run_does_not_end_before_the_step_it_has_reached(base: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ExtraError, match="at step 6 already, beyond max_steps=4"):
        train(config_from_dict(grpo(base, tmp_path, max_steps=4) | {"mesh": {"fsdp": 4, "tensor": 2}}))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
