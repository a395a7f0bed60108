"""Writes steps of a run down as bundles; computes one again, on the CPU, and says where it differs (``replay``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from extra_jax.checkpoint import Checkpointer, checkpoint_folder
from extra_jax.config import Config, MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.learn.advantage import make_advantage
from extra_jax.learn.bundle import Bundle, read_bundle, write_bundle
from extra_jax.learn.grpo import Learner
from extra_jax.learn.update import TrainState
from extra_jax.model.fingerprint import fingerprint
from extra_jax.model.load import build_model
from extra_jax.parallel.mesh import make_mesh
from extra_jax.reward.scores import Scores
from extra_jax.stages import Learn, OldLogprobs, Sampled, Updates

_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # relative, by dtype of activations: another mesh rounds otherwise
_ADVANTAGE_TOLERANCE = 1e-9


def with_dumps(learn: Learn, config: Config, mesh: Mesh) -> Learn:
    """Learns, and writes the bundle of each step in ``train.dump_steps``."""

    def dumped(state: TrainState, step: int, sampled: Sampled, advantages: np.ndarray, old: OldLogprobs) -> Updates:
        if step + 1 not in config.train.dump_steps:
            return learn(state, step, sampled, advantages, old)
        before = fingerprint(state.params, mesh)
        state, updates = learn(state, step, sampled, advantages, old)
        folder, rollouts, scores = Path(config.run.dir), sampled.rollouts, sampled.scores
        write_bundle(folder, step + 1, config, before, rollouts, scores, advantages, updates)
        return state, updates

    return dumped


@dataclass(frozen=True)
class Comparison:
    """One number of the bundle and the same computed again."""

    what: str
    recorded: float
    recomputed: float
    tolerance: float

    @property
    def differs(self) -> bool:
        """Outside the relative tolerance (and a hundredth of it, absolute); equal where both are not finite."""
        if not (np.isfinite(self.recorded) and np.isfinite(self.recomputed)):
            return np.isfinite(self.recorded) or np.isfinite(self.recomputed)
        return abs(self.recorded - self.recomputed) > self.tolerance * (abs(self.recorded) + 0.01)


def replay(file: str, advantages_only: bool = False) -> int:
    """Prints every number beside the recorded one; returns the exit status, 1 where something differs.

    Raises:
        ExtraError: no bundle, or no parameters whose fingerprint is that of the bundle.
    """
    jax.config.update("jax_platforms", "cpu")
    path = Path(file)
    bundle = read_bundle(path)
    print(f"step {bundle.step}: {len(bundle.rollouts)} completions, {len(bundle.updates)} optimizer updates")
    found = list(compare_advantages(bundle))
    if not advantages_only:
        found += compare_updates(bundle, path.absolute().parents[1])
    width = max((len(one.what) for one in found), default=0)
    for one in found:
        mark = "DIFFERS" if one.differs else "same"
        print(f"  {one.what:<{width}}  {one.recorded:>14.7g}  {one.recomputed:>14.7g}  {mark}")
    wrong = [one.what for one in found if one.differs]
    print(f"differs: {', '.join(wrong)}" if wrong else f"all {len(found)} numbers are those of the run")
    return 1 if wrong else 0


def compare_advantages(bundle: Bundle) -> Iterator[Comparison]:
    """Largest advantage and every row that differs, from the recorded rewards; nothing where a bonus was added, which
    follows from all the steps before."""
    if bundle.config.explore.active:
        return
    scores = Scores(bundle.rewards, bundle.valid, bundle.correct, grades=[])
    again = make_advantage(bundle.config)(scores, bundle.rollouts)
    recorded, recomputed = (float(np.abs(x).max()) for x in (bundle.advantages, again))
    yield Comparison("advantages/abs_max", recorded, recomputed, 1e-9)
    for row in np.flatnonzero(np.abs(bundle.advantages - again) > _ADVANTAGE_TOLERANCE):
        name = f"advantage of rollout {bundle.rollouts.rollout_ids[row]}"
        yield Comparison(name, float(bundle.advantages[row]), float(again[row]), _ADVANTAGE_TOLERANCE)


def compare_updates(bundle: Bundle, run_dir: Path) -> list[Comparison]:
    """Metrics of every update of the step (loss, gradient norm, entropy, mismatch, ...), one after the other."""
    if bundle.config.train.loss_type == "bnpo" and bundle.devices > 1:
        raise ExtraError(
            f"loss_type=bnpo averages within the micro-batches of {bundle.devices} devices, which one device does not "
            "have; recompute the advantages alone: --advantages-only"
        )
    config = one_device(bundle.config)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    model = build_model(config.model, mesh, seed=config.run.seed)
    _check_tokens(bundle, model.config.vocab_size)
    learner = Learner(model.graphdef, config, mesh)
    reference = jax.tree.map(lambda x: x.copy(), model.params) if config.train.beta > 0 else None
    state = state_before(bundle, learner.init(model.params), run_dir, mesh)
    batches = learner.batches(state.params, reference, bundle.rollouts, bundle.advantages)
    found, tolerance = [], _TOLERANCE[config.model.dtype]
    if len(bundle.updates) != (count := len(batches) * config.train.num_iterations):
        raise ExtraError(f"the bundle records {len(bundle.updates)} optimizer updates, its step makes {count}")
    for index, batch in enumerate(batches * config.train.num_iterations):
        state, metrics = learner.update(state, batch)
        for name, value in sorted(jax.device_get(metrics).items()):
            what = f"update {index + 1} {name}"
            if name not in bundle.updates[index]:
                raise ExtraError(f"the bundle does not record {what}: it is of another version, or damaged")
            found.append(Comparison(what, bundle.updates[index][name], float(value), tolerance))
    return found


def _check_tokens(bundle: Bundle, vocab_size: int) -> None:
    rollouts = bundle.rollouts
    drawn = rollouts.tokens[rollouts.completion_mask]
    for ids in (drawn, *rollouts.prompt_ids, *rollouts.prefix_ids):
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ExtraError(f"the bundle has token ids from {ids.min()} to {ids.max()}; the model has {vocab_size:,}")


def state_before(bundle: Bundle, initial: TrainState, run_dir: Path, mesh: Mesh) -> TrainState:
    """Parameters and optimizer state that the step started from: a checkpoint of the run, or the initial model.

    Raises:
        ExtraError: there is no checkpoint of the step before, or the parameters are not those of the bundle.
    """
    before, state, origin = bundle.step - 1, initial, "the initial model"
    if (folder := checkpoint_folder(bundle.config, run_dir)).is_dir():
        with Checkpointer(folder, read_only=True) as checkpoints:
            if before in checkpoints.steps():
                _, state = checkpoints.restore(initial, step=before)
                origin = f"checkpoint {before} of {run_dir}"
    if before and state is initial:
        raise ExtraError(
            f"{run_dir}: no checkpoint of step {before}, from which step {bundle.step} started. Keep one in another "
            "run (checkpoint.every, checkpoint.keep), or recompute the advantages alone: --advantages-only"
        )
    if (present := fingerprint(state.params, mesh)) != bundle.fingerprint:
        raise ExtraError(
            f"{origin} is not what step {bundle.step} started from: its fingerprint is {present}, that of the bundle "
            f"{bundle.fingerprint}. Bring back the model of the run, or recompute the advantages alone: "
            "--advantages-only"
        )
    return state


def one_device(config: Config) -> Config:
    """The configuration of the run on a single device of this machine."""
    mesh = MeshConfig(data=1, fsdp=1, tensor=1)
    return config.model_copy(update={"mesh": mesh})
