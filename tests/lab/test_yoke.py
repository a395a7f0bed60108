"""Controls yoked to a recorded run are as large as what it paid, and refuse what they could not be matched to."""

import json
from pathlib import Path

import numpy as np
import pytest

from explore.steps import Visit, config_of
from extra_jax.config import Config, save_config
from extra_jax.config.explore import RANDOM_CONTROLS
from extra_jax.dry_run import describe
from extra_jax.errors import ExtraError
from extra_jax.explore import metrics as measures
from extra_jax.explore.controls import Identity, controlled
from extra_jax.explore.lexical import ngram_codes
from extra_jax.explore.state import ExplorationState
from extra_jax.explore.yoke import Recorded, read_recorded

STEPS = 3
ARMS = {"N2": "permute_within", "N3": "permute_across", "N4": "gaussian", "N6": "hash"}


def visits(
    config: Config, spread: float, recorded: dict[int, Recorded] | None = None
) -> tuple[list[Visit], list[dict]]:
    """Three steps of 64 prompts x 8 vectors, ``spread`` apart in a group, and what is logged of them."""
    rng, state, made, logged = np.random.default_rng(int(100 * spread)), ExplorationState(), [], []
    for step in range(STEPS):
        vectors = (rng.normal(size=(64, 1, 16)) + spread * rng.normal(size=(64, 8, 16))).reshape(-1, 16)
        correct = rng.random(512) < 0.5
        codes = [ngram_codes(rng.integers(0, 30, 12), 2) for _ in range(512)]
        told = (recorded or {}).get(step)
        visit = Visit(config, state, vectors, correct, 8, step=step, codes=codes, recorded=told)
        visit.run(np.where(correct, 1.0, 0.0).reshape(64, 8))
        task = visit.where.spread(np.where(correct, 1.0, -1.0))
        row = measures.novelty_metrics(
            visit.rows, visit.where, visit.measured, visit.paid, task, config.explore.novelty
        )
        made.append(visit)
        logged.append(row | (measures.yoke_metrics(told, visit.measured, visit.paid) if told else {}))
    return made, logged


@pytest.fixture(scope="module")
def n1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of N1 that found larger distances than the controls will."""
    folder = tmp_path_factory.mktemp("N1_seed0")
    config = config_of({"arm": "N1"}, max_steps=STEPS)
    save_config(config, folder / "config.yaml")
    write_metrics(folder, visits(config, spread=0.8)[1])
    return folder


def write_metrics(folder: Path, rows: list[dict]) -> None:
    lines = [json.dumps({"step": i, "time": 0.0} | row) for i, row in enumerate(rows, start=1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def copied(n1: Path, folder: Path) -> list[dict]:
    """The same run in another folder, to be damaged; its lines of metrics."""
    (folder / "config.yaml").write_text((n1 / "config.yaml").read_text())
    (folder / "metrics.jsonl").write_text((n1 / "metrics.jsonl").read_text())
    return [json.loads(line) for line in (n1 / "metrics.jsonl").read_text().splitlines()]


def yoked(arm: str, folder: Path, max_steps: int = STEPS, **novelty: object) -> Config:
    return config_of(
        {"arm": arm, "novelty": {"match": "yoked", "yoked_to": str(folder), **novelty}}, max_steps=max_steps
    )


@pytest.mark.parametrize("arm", ARMS)
def test_a_yoked_control_has_the_size_of_the_recorded_run(arm, n1):
    config = yoked(arm, n1)
    recorded = read_recorded(config)
    assert list(recorded) == [0, 1, 2]
    made, logged = visits(config, spread=0.3, recorded=recorded)
    own = visits(config_of({"arm": arm}), spread=0.3)[0]
    for step, visit in enumerate(made):
        gate, replaced = visit.measured.gate, visit.measured.gate & visit.measured.used_defined
        used = visit.measured.used.values[replaced]
        assert used.min() >= 0.0
        assert used.mean() == pytest.approx(recorded[step].mean, rel=0.01)
        assert used.std(ddof=1) == pytest.approx(recorded[step].std, rel=0.02)
        assert np.abs(visit.paid.bonus.values[gate]).mean() == pytest.approx(recorded[step].bonus, rel=1e-6)
        for name, tolerance in (("mean", 0.01), ("std", 0.02), ("bonus", 1e-6)):
            assert logged[step][f"exploration/match_yoked_{name}"] == pytest.approx(1.0, abs=tolerance)
        mine = own[step].measured.used.values[replaced]
        assert mine.mean() < 0.5 * recorded[step].mean, "without the yoke it would follow its own rollouts"


def test_moments_hold_after_clipping_and_identity_decides_the_draw():
    values = np.random.default_rng(0).random((200, 6))
    gate, uids = np.random.default_rng(1).random(values.shape) < 0.7, [f"p{i}" for i in range(200)]
    codes = [[ngram_codes(np.array([k, w, k + w]), 2) for w in range(6)] for k in range(200)]
    for control in RANDOM_CONTROLS:
        # mean below the deviation: normal draws are clipped at 0 again and again
        made = [
            controlled(control, values, gate, Identity(7, step, uids), codes=codes, moments=(0.1, 0.12))
            for step in (3, 3, 4)
        ]
        assert made[0][gate].min() >= 0.0, control
        assert made[0][gate].mean() == pytest.approx(0.1, rel=0.01), control
        assert made[0][gate].std() == pytest.approx(0.12, rel=0.01), control
        assert (made[0][~gate] == values[~gate]).all(), control
        assert made[0].tobytes() == made[1].tobytes(), control
        assert (made[0].tobytes() == made[2].tobytes()) == (control == "hash"), control
        order = np.random.default_rng(2).permutation(200)
        moved = Identity(7, 3, [uids[i] for i in order])
        again = controlled(
            control, values[order], gate[order], moved, codes=[codes[i] for i in order], moments=(0.1, 0.12)
        )
        np.testing.assert_allclose(again, made[0][order], atol=1e-9)


@pytest.mark.parametrize("control", RANDOM_CONTROLS)
def test_matched_to_its_own_moments_nothing_is_moved(control):
    """``match: self`` hands no moments over; handing over the run's own gives the same up to rounding."""
    rng = np.random.default_rng(5)
    values, gate = rng.gamma(4.0, 0.05, (40, 6)), rng.random((40, 6)) < 0.6
    codes = [[ngram_codes(rng.integers(0, 50, 20), 2) for _ in range(6)] for _ in range(40)]
    identity = Identity(0, 0, [f"p{i}" for i in range(40)])
    own = controlled(control, values, gate, identity, codes=codes)
    moments = float(own[gate].mean()), float(own[gate].std())
    np.testing.assert_allclose(
        controlled(control, values, gate, identity, codes=codes, moments=moments), own, atol=1e-9
    )


def test_a_step_in_which_nothing_was_paid_pays_nothing(n1, tmp_path):
    """Means over nothing are left out of the log; that is no missing metric."""
    rows = copied(n1, tmp_path)
    without = {name: value for name, value in rows[1].items() if "mean" not in name and "std" not in name}
    write_metrics(tmp_path, [rows[0], without, rows[2]])
    recorded = read_recorded(yoked("N4", tmp_path))
    assert recorded[1] == Recorded(0.0, 0.0, 0.0)
    made, logged = visits(yoked("N4", tmp_path), spread=0.3, recorded=recorded)
    assert (made[1].bonus == 0).all()
    assert not any("yoked" in name for name in logged[1])
    assert (made[2].bonus != 0).any()


def test_matched_to_itself_nothing_is_read():
    assert read_recorded(config_of({"arm": "N4"})) == {}


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_not_there_is_named(arm, n1, tmp_path):
    with pytest.raises(ExtraError, match=r"explore.novelty.yoked_to=nowhere: .*metrics.jsonl: no such file"):
        read_recorded(yoked(arm, Path("nowhere")))
    with pytest.raises(ExtraError, match=r"no step 4, and this run goes to step 5.*lower train.max_steps"):
        read_recorded(yoked(arm, n1, max_steps=5))
    rows = copied(n1, tmp_path)
    write_metrics(tmp_path, [{k: v for k, v in row.items() if k != "exploration/bonus_abs_mean"} for row in rows])
    with pytest.raises(ExtraError, match=r"step 1 has no metric exploration/bonus_abs_mean; .*arm N1"):
        read_recorded(yoked(arm, tmp_path))
    write_metrics(tmp_path, [{"reward": 0.5}] * STEPS)
    with pytest.raises(ExtraError, match=r"step 1 has no metric exploration/novelty_mean"):
        read_recorded(yoked(arm, tmp_path))
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ExtraError, match=r"config.yaml is missing"):
        read_recorded(yoked(arm, tmp_path))


def test_a_run_whose_numbers_mean_something_else_is_refused(n1, tmp_path):
    copied(n1, tmp_path)
    with pytest.raises(ExtraError, match=r"its novelty is another.*\n *explore.novelty.alpha: 0.5 -> 0.3"):
        read_recorded(yoked("N4", tmp_path, alpha=0.3))
    save_config(config_of({"arm": "N2"}), tmp_path / "config.yaml")
    with pytest.raises(ExtraError, match=r"did not pay the real bonus; name a run of arm N1"):
        read_recorded(yoked("N4", tmp_path))


def test_dry_run_reads_the_recorded_run(n1):
    changes = {"data": {"source": "countdown", "limit": 64}, "tokenizer": {"path": "tiny"}}

    def told(folder: Path) -> str:
        tree = yoked("N4", folder).model_dump(mode="json")
        return describe(Config(**{**tree, "data": {**tree["data"], **changes["data"]}}), "plan")

    assert f"3 recorded steps in {n1}" in told(n1)
    with pytest.raises(ExtraError, match="no such file"):
        told(n1 / "elsewhere")


@pytest.mark.parametrize(
    ("arm", "novelty", "message"),
    [
        ("N4", {"match": "yoked"}, "go together"),
        ("N4", {"yoked_to": "runs/n1"}, "go together"),
        ("N1", {"match": "yoked", "yoked_to": "x"}, "not control=none"),
        ("N5", {"match": "yoked", "yoked_to": "x"}, "not control=inverse, which is made of the run's own distances"),
        ("G2", {"match": "yoked", "yoked_to": "x"}, "not control=constant"),
        ("L1", {"match": "yoked", "yoked_to": "x"}, "not control=none"),
        ("N4", {"match": "yoked", "yoked_to": "x", "metric": "jaccard"}, "needs metric=embedding"),
        ("N4", {"match": "yoked", "yoked_to": "x", "gate": "all"}, "needs gate=correct"),
        ("N4", {"match": "yoked", "yoked_to": "x", "variance_lambda": 1.0}, "needs variance_lambda=0"),
    ],
)
def test_where_a_yoke_makes_no_sense_it_is_refused(arm, novelty, message):
    with pytest.raises(ExtraError, match=message):
        config_of({"arm": arm, "novelty": novelty})
