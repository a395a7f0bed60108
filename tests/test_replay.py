"""Replay bundles of a real run: computed again they agree, and what was tampered with is named."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_runs import CHECKPOINT_EVERY

from extra_jax.errors import ExtraError
from extra_jax.learn import bundle
from extra_jax.learn.bundle import read_bundle
from extra_jax.replay import Comparison, compare_advantages, replay

pytest_plugins = ("training_fixtures",)
STEP = CHECKPOINT_EVERY + 1  # the first whose parameters are in a checkpoint


def file(run_dir: Path, step: int) -> Path:
    return run_dir / "replay" / f"step_{step:06d}.npz"


def rewritten(source: Path, target: Path, **columns: np.ndarray) -> Path:
    """A copy of a bundle with other columns."""
    with np.load(source) as old:
        new = {name: old[name] for name in old.files} | columns
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **new)
    return target


def test_a_step_from_a_checkpoint_is_the_same_again_and_a_changed_token_is_found(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert replay(str(file(uninterrupted, STEP))) == 0
    printed = capsys.readouterr().out
    for update in (1, 2, 3, 4):  # two mini-batches, two iterations
        assert f"update {update} loss" in printed
        assert f"update {update} grad_norm" in printed
    assert "DIFFERS" not in printed
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    tokens = read_bundle(file(uninterrupted, STEP)).rollouts.tokens.copy()
    tokens[:, 0] = (tokens[:, 0] + 1) % 60
    assert replay(str(rewritten(file(uninterrupted, STEP), file(tmp_path, STEP), tokens=tokens))) == 1
    printed = capsys.readouterr().out
    assert "update 1 sampling/sampling_logp_difference/mean" in printed.splitlines()[-1]
    assert "advantage" not in printed.splitlines()[-1]


def test_a_changed_reward_is_found_without_parameters_and_every_row_it_touches_named(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole = read_bundle(file(uninterrupted, 2))
    assert not any(one.differs for one in compare_advantages(whole))
    rewards = whole.rewards.copy()
    rewards[5] += 0.5
    assert replay(str(rewritten(file(uninterrupted, 2), file(tmp_path, 2), rewards=rewards)), True) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    group = whole.rollouts.rollout_ids[4:8]  # the advantages of a whole group move
    assert all(f"rollout {uid}" in last for uid in group)
    assert last.count("rollout") == len(group)


def test_a_step_without_a_checkpoint_or_with_other_parameters_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(ExtraError, match=r"no checkpoint of step 1, from which step 2 started.*--advantages-only"):
        replay(str(file(uninterrupted, 2)))
    about = json.loads(str(np.load(file(uninterrupted, 1))["about"]))
    other = rewritten(file(uninterrupted, 1), file(tmp_path, 1), about=json.dumps(about | {"fingerprint": "0" * 16}))
    with pytest.raises(ExtraError, match="the initial model is not what step 1 started from"):
        replay(str(other))


def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(ExtraError, match=r"no such file\..*train\.dump_steps"):
        read_bundle(tmp_path / "step_000009.npz")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(file(uninterrupted, 1).read_bytes()[:-500])
    with pytest.raises(ExtraError, match="damaged"):
        read_bundle(damaged)
    about = json.loads(str(np.load(file(uninterrupted, 1))["about"]))
    for changed, fault in (
        (about | {"format": 99}, "format: Input should be 2 .got 99"),
        ([1], "Input should be a valid dictionary"),
        ({key: value for key, value in about.items() if key != "config"}, "config: Field required"),
        (about | {"config": about["config"] | {"zzz": 1}}, "zzz"),
        (about | {"devices": "2"}, "devices: Input should be a valid integer"),
        (about | {"updates": [{"loss": "x"}]}, "updates.0.loss: Input should be a valid number"),
    ):
        other = rewritten(file(uninterrupted, 1), tmp_path / "n.npz", about=np.array(json.dumps(changed)))
        with pytest.raises(ExtraError, match=fault):
            read_bundle(other)


def without(columns: dict, name: str) -> dict:
    return {key: value for key, value in columns.items() if key != name}


TAMPERED = {
    "an array is missing": (lambda z: without(z, "rollout_ids"), "these differ: rollout_ids"),
    "an array more": (lambda z: z | {"x": np.zeros(1)}, "these differ: x"),
    "no header": (lambda z: without(z, "about"), "not valid JSON"),
    "stop reason 99": (lambda z: z | {"stop_reasons": z["stop_reasons"] + 99}, "stop_reasons has entries outside 0 to"),
    "long rows": (lambda z: z | {"lengths": z["lengths"] + 10**6}, "lengths has entries outside 0 to"),
    "negative lengths": (lambda z: z | {"lengths": z["lengths"] * 0 - 5}, "lengths has entries outside 0 to"),
    "wrong prompt lengths": (lambda z: z | {"prompts_lengths": z["prompts_lengths"] + 1}, "prompts_lengths add up to"),
    "few rewards": (lambda z: z | {"rewards": z["rewards"][:3]}, r"rewards is float64\[3\], which does not fit"),
    "text for rewards": (lambda z: z | {"rewards": z["rewards"].astype(str)}, r"rewards is <U.*does not fit"),
    "flat tokens": (lambda z: z | {"tokens": z["tokens"].ravel()}, "tokens is int32.*does not fit"),
    "no rows": (
        lambda z: {name: x[:0] if x.ndim else x for name, x in z.items()},
        "it has no completions",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_arrays_that_do_not_fit_each_other_are_refused(uninterrupted: Path, tmp_path: Path, name: str) -> None:
    change, fault = TAMPERED[name]
    with np.load(file(uninterrupted, 1)) as old:
        columns = change({name: old[name] for name in old.files})
    path = tmp_path / "changed.npz"
    np.savez(path, **columns)
    with pytest.raises(ExtraError, match=rf"changed\.npz.*{fault}"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("columns", "updates", "fault"),
    [
        ({"tokens": 10**6}, None, "token ids from 1000000 to 1000000; the model has"),
        ({"prompts": -1}, None, "token ids from -1 to"),
        ({}, [], "records 0 optimizer updates, its step makes 4"),
        ({}, [{"loss": 1.0}] * 4, "does not record update 1 "),
    ],
)
def test_what_the_model_cannot_have_made_is_refused_before_it_is_computed(
    uninterrupted: Path, tmp_path: Path, columns: dict, updates: list | None, fault: str
) -> None:
    with np.load(file(uninterrupted, 1)) as old:
        about = json.loads(str(old["about"]))
        changed = {name: np.full_like(old[name], value) for name, value in columns.items()}
    about |= {} if updates is None else {"updates": updates}
    path = rewritten(file(uninterrupted, 1), file(tmp_path, 1), about=np.array(json.dumps(about)), **changed)
    with pytest.raises(ExtraError, match=fault):
        replay(str(path))


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_of_a_bundle_may_be_wrong(uninterrupted: Path, data: st.DataObject) -> None:
    content = bytearray(file(uninterrupted, 1).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    with tempfile.NamedTemporaryFile(suffix=".npz") as copy:
        copy.write(content[: data.draw(st.integers(0, len(content)))])
        copy.flush()
        with contextlib.suppress(ExtraError):
            read_bundle(Path(copy.name))


def test_a_bundle_holds_what_the_run_wrote_elsewhere(uninterrupted: Path) -> None:
    told = read_bundle(file(uninterrupted, STEP))
    path = uninterrupted / "rollouts" / f"step_{STEP:06d}.jsonl"
    for row, record in enumerate(map(json.loads, path.read_text().splitlines())):
        assert told.rollouts.rollout_ids[row] == record["rollout_id"]
        assert told.rollouts.prompt_ids[row].tolist() == record["prompt_ids"]
        assert told.rollouts.completion_ids(row).tolist() == record["completion_ids"]
        assert told.rewards[row] == pytest.approx(record["reward"], rel=1e-4)
        assert told.advantages[row] == pytest.approx(record["advantage"], rel=1e-4)
        assert told.rollouts.stop_reasons[row].value == record["stop_reason"]


def test_numbers_differ_beyond_their_tolerance() -> None:
    near = Comparison("loss", 2.0, 2.001, 1e-3)
    assert not near.differs
    assert dataclasses.replace(near, recomputed=2.01).differs
    assert dataclasses.replace(near, recomputed=float("nan")).differs
    assert not dataclasses.replace(near, recorded=float("nan"), recomputed=float("inf")).differs
    assert bundle.REPLAY_FOLDER == "replay"
