"""Controls yoked to a recorded run are as large as what it paid, and refuse what they could not be matched to."""

import json
from pathlib import Path

import numpy as np
import pytest
from explore.steps import Lived, config_with, run_info, step_with

from benchmarks.exploration.lab.controls import RANDOM, Identity, control, controlled
from benchmarks.exploration.lab.lexical import ngram_codes
from benchmarks.exploration.lab.yoke import Recorded, Yoke
from extra_jax.config import save_config
from extra_jax.errors import ExtraError
from extra_jax.explore import RunInfo, Transform, novelty
from extra_jax.explore.encoders import EncoderSettings

STEPS = 3
ENCODER = EncoderSettings(name="policy_hidden")


def information(max_steps: int = STEPS) -> RunInfo:
    return run_info(group_size=8, prompts_per_step=40, max_steps=max_steps, encoder=ENCODER)


def visits(transform: Transform, spread: float) -> list[tuple[np.ndarray, dict]]:
    """Bonuses and reports of three steps of 40 prompts x 8 vectors, ``spread`` apart in a group."""
    rng, run = np.random.default_rng(int(100 * spread)), Lived(transform, information())
    results = []
    for index in range(STEPS):
        vectors = (rng.normal(size=(40, 1, 16)) + spread * rng.normal(size=(40, 8, 16))).reshape(-1, 16)
        texts = ["".join(rng.choice(list("abcdef"), 12)) for _ in range(320)]
        step = step_with(rng.random((40, 8)) < 0.5, vectors=vectors, texts=texts, index=index, run=information())
        results.append((run(step, step.advantages) - step.advantages, run.report))
    return results


@pytest.fixture(scope="module")
def n1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of N1 that saw larger distances than the controls will."""
    folder = tmp_path_factory.mktemp("N1_seed0")
    save_as(folder, {"novelty": {}})
    names = ("novelty_mean", "novelty_std", "novelty_max", "bonus_abs_mean")
    rows = [{f"exploration/{name}": report[name] for name in names} for _, report in visits(novelty(), spread=0.8)]
    write_metrics(folder, rows)
    return folder


def save_as(folder: Path, bonus: dict) -> None:
    explore = {"encoder": {"name": "policy_hidden"}, "bonus": bonus}
    save_config(config_with(explore, max_steps=STEPS), folder / "config.yaml")


def write_metrics(folder: Path, rows: list[dict]) -> None:
    lines = [json.dumps({"step": i, "time": 0.0} | row) for i, row in enumerate(rows, start=1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def copied(n1: Path, folder: Path) -> list[dict]:
    """The same run in another folder, to be damaged; its lines of metrics."""
    for name in ("config.yaml", "metrics.jsonl"):
        (folder / name).write_text((n1 / name).read_text())
    return [json.loads(line) for line in (n1 / "metrics.jsonl").read_text().splitlines()]


def recorded(folder: Path, **settings: object) -> dict[int, Recorded]:
    yoke = Yoke(folder, settings)
    yoke.read(information())
    return yoke.steps


@pytest.mark.parametrize("name", RANDOM)
def test_a_yoked_control_has_the_size_of_the_recorded_run(name, n1):
    own = visits(control(name), spread=0.3)
    for index, (bonuses, report) in enumerate(visits(control(name, yoked_to=str(n1)), spread=0.3)):
        used = np.array([x for x in report["novelty_used"] if x is not None])
        expected = recorded(n1)[index]
        assert used.min() >= 0.0
        assert used.mean() == pytest.approx(expected.mean, rel=0.01)
        assert used.std(ddof=1) == pytest.approx(expected.std, rel=0.02)
        assert np.abs(bonuses).sum() / len(used) == pytest.approx(expected.bonus, rel=1e-6)
        for measure, tolerance in (("mean", 0.01), ("std", 0.02), ("bonus", 1e-6)):
            assert report[f"match_yoked_{measure}"] == pytest.approx(1.0, abs=tolerance)
        free = np.array([x for x in own[index][1]["novelty_used"] if x is not None])
        assert free.mean() < 0.5 * expected.mean, "without the yoke it would follow its own completions"


def test_moments_hold_after_clipping_and_identity_decides_the_draw():
    values = np.random.default_rng(0).random((200, 6))
    gate, uids = np.random.default_rng(1).random(values.shape) < 0.7, [f"p{i}" for i in range(200)]
    codes = [[ngram_codes(np.array([k, w, k + w]), 2) for w in range(6)] for k in range(200)]
    for name in RANDOM:
        # mean below the deviation: normal draws are clipped at 0 again and again
        drawn = [
            controlled(name, values, gate, Identity(7, step, uids), codes=codes, moments=(0.1, 0.12))
            for step in (3, 3, 4)
        ]
        assert drawn[0][gate].min() >= 0.0, name
        assert drawn[0][gate].mean() == pytest.approx(0.1, rel=0.01), name
        assert drawn[0][gate].std() == pytest.approx(0.12, rel=0.01), name
        assert drawn[0].tobytes() == drawn[1].tobytes(), name
        assert (drawn[0].tobytes() == drawn[2].tobytes()) == (name == "hash"), name


@pytest.mark.parametrize("name", RANDOM)
def test_matched_to_its_own_moments_nothing_is_moved(name):
    """Without a yoke no moments are handed over; handing over the run's own gives the same up to rounding."""
    rng = np.random.default_rng(5)
    values, gate = rng.gamma(4.0, 0.05, (40, 6)), rng.random((40, 6)) < 0.6
    codes = [[ngram_codes(rng.integers(0, 50, 20), 2) for _ in range(6)] for _ in range(40)]
    identity = Identity(0, 0, [f"p{i}" for i in range(40)])
    own = controlled(name, values, gate, identity, codes=codes)
    moments = float(own[gate].mean()), float(own[gate].std())
    again = controlled(name, values, gate, identity, codes=codes, moments=moments)
    np.testing.assert_allclose(again, own, atol=1e-9)


def test_a_step_in_which_nothing_was_paid_pays_nothing(n1, tmp_path):
    """Means over nothing are left out of the log; that is no missing metric."""
    rows = copied(n1, tmp_path)
    without = {name: value for name, value in rows[1].items() if "mean" not in name and "std" not in name}
    write_metrics(tmp_path, [rows[0], without, rows[2]])
    assert recorded(tmp_path)[1] == Recorded(0.0, 0.0, 0.0)
    results = visits(control("gaussian", yoked_to=str(tmp_path)), spread=0.3)
    assert (results[1][0] == 0).all()
    assert np.isnan([value for name, value in results[1][1].items() if "yoked" in name]).all()
    assert (results[2][0] != 0).any()


def test_what_is_not_there_is_named_before_the_first_step(n1, tmp_path):
    with pytest.raises(ExtraError, match=r"yoked_to=nowhere: .*metrics.jsonl: no such file"):
        control("hash", yoked_to="nowhere").init(information())
    with pytest.raises(ExtraError, match=r"no step 4, and this run goes to step 5.*lower train.max_steps"):
        control("hash", yoked_to=str(n1)).init(information(5))
    rows = copied(n1, tmp_path)
    write_metrics(tmp_path, [{k: v for k, v in row.items() if k != "exploration/bonus_abs_mean"} for row in rows])
    with pytest.raises(ExtraError, match=r"step 1 has no metric exploration/bonus_abs_mean; .*arm N1"):
        recorded(tmp_path)
    write_metrics(tmp_path, [{"reward": 0.5}] * STEPS)
    with pytest.raises(ExtraError, match=r"step 1 has no metric exploration/novelty_mean"):
        recorded(tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ExtraError, match=r"config.yaml is missing"):
        recorded(tmp_path)


def test_a_run_whose_numbers_mean_something_else_is_refused(n1, tmp_path):
    copied(n1, tmp_path)
    assert recorded(tmp_path, alpha=0.5), "written out or left out, it is the same setting"
    with pytest.raises(ExtraError, match=r"its novelty is another.*\n *alpha: 0.5 -> 0.3"):
        recorded(tmp_path, alpha=0.3)
    other = run_info(max_steps=STEPS, encoder=EncoderSettings(name="hashed_ngram"))
    with pytest.raises(ExtraError, match=r"encoder: .*policy_hidden.* -> .*hashed_ngram"):
        Yoke(tmp_path, {}).read(other)
    save_as(tmp_path, {"benchmarks/exploration/lab/controls.py:control": {"control": "hash"}})
    with pytest.raises(ExtraError, match=r"did not pay the real bonus; name a run of arm N1"):
        recorded(tmp_path)


@pytest.mark.parametrize("name", ["inverse", "constant"])
def test_where_a_yoke_makes_no_sense_it_is_refused(name):
    with pytest.raises(ExtraError, match=f"control={name} is made of the run's own distances"):
        control(name, yoked_to="x")
