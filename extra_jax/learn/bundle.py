"""One training step in a file: everything that went into its update, and what came out.

A bundle is an ``.npz``: arrays of all processes, and one JSON text ``about`` with the configuration, the fingerprint of
the parameters before the update and the metrics of each update. ``extra_jax/replay.py`` computes it again.
"""

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.config import Config, config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import allgather_rows, is_main
from extra_jax.rollout.types import Rollouts, StopReason

REPLAY_FOLDER = "replay"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Bundle:
    """One step; ``R`` completions of all processes, groups adjacent.

    Attributes:
        step: finished steps after it.
        config: of the run.
        fingerprint: of the parameters before the first update.
        rollouts: what was learned from.
        rewards: ``[R]`` f64.
        valid: ``[R]`` bool; 1 marks a reward that says something about the policy.
        advantages: ``[R]`` f64.
        updates: metrics of each optimizer update.
        devices: of the run.
    """

    step: int
    config: Config
    fingerprint: str
    rollouts: Rollouts
    rewards: np.ndarray
    valid: np.ndarray
    advantages: np.ndarray
    updates: list[dict[str, float]]
    devices: int


def write_bundle(
    run_dir: Path,
    step: int,
    config: Config,
    fingerprint: str,
    rollouts: Rollouts,
    rewards: np.ndarray,
    valid: np.ndarray,
    advantages: np.ndarray,
    updates: list[dict[str, jax.Array]],
) -> Path:
    """Writes ``run_dir/replay/step_N.npz``; all processes call it with their own rows, process 0 writes.

    Arguments are the fields of ``Bundle``.
    """
    prompt_lengths = np.array([len(ids) for ids in rollouts.prompt_ids], np.int32)
    prompts = np.concatenate(rollouts.prompt_ids) if len(rollouts) else np.zeros(0, np.int32)
    columns = {
        "rollout_ids": rollouts.rollout_ids,
        "prompt_lengths": prompt_lengths,
        "prompts": prompts.astype(np.int32),
        "tokens": rollouts.tokens,
        "lengths": rollouts.lengths,
        "sampling_logprobs": rollouts.logprobs,
        "entropies": rollouts.entropies,
        "truncated": rollouts.truncated,
        "rewards": rewards,
        "valid": valid,
        "advantages": advantages,
    }
    gathered = {name: allgather_rows(np.asarray(column)) for name, column in columns.items()}
    about = {
        "format": _FORMAT,
        "step": step,
        "config": config.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "devices": jax.device_count(),
        "updates": [{name: float(value) for name, value in update.items()} for update in jax.device_get(updates)],
    }
    path = run_dir / REPLAY_FOLDER / f"step_{step:06d}.npz"
    if is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        with beside.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **gathered)
        beside.replace(path)
    return path


def read_bundle(path: Path) -> Bundle:
    """Reads what ``write_bundle`` wrote.

    Raises:
        ExtraError: no such file, damaged, or of another format.
    """
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        about: dict[str, Any] = json.loads(str(columns.pop("about")))
    except FileNotFoundError as error:
        raise ExtraError(f"{path}: no such file; train.dump_steps=[N] writes run.dir/{REPLAY_FOLDER}/step_N") from error
    except Exception as error:  # numpy, zipfile and zlib each have their own for a damaged file
        raise ExtraError(f"{path}: not a replay bundle, or damaged: {error}") from error
    if about.get("format") != _FORMAT:
        raise ExtraError(f"{path}: format {about.get('format')!r}; this version reads {_FORMAT}")
    config = config_from_dict(about["config"], str(path))
    ids, group = columns["rollout_ids"], config.train.num_generations
    _, prompt_index = np.unique(ids // group, return_inverse=True)
    rollouts = Rollouts(
        rollout_ids=ids,
        prompt_index=prompt_index.astype(np.int32),
        prompt_ids=np.split(columns["prompts"], np.cumsum(columns["prompt_lengths"])[:-1]),
        tokens=columns["tokens"],
        lengths=columns["lengths"],
        logprobs=columns["sampling_logprobs"],
        entropies=columns["entropies"],
        stop_reasons=[StopReason.LENGTH if cut else StopReason.STOP_TOKEN for cut in columns["truncated"]],
    )
    outcome = {name: columns[name] for name in ("rewards", "valid", "advantages")}
    told = {name: about[name] for name in ("step", "fingerprint", "updates", "devices")}
    return Bundle(config=config, rollouts=rollouts, **told, **outcome)


def fingerprint(params: nnx.State) -> str:
    """Hex digest of all bits of the parameters and of their names and shapes, the same on any mesh.

    Each leaf is summed up as integers with a weight for each place: exact, so the order of adding does not matter.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
    for (path, leaf), total in zip(leaves, sums, strict=True):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype} {total};".encode())
    return digest.hexdigest()


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    def total(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
        place = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        mixed = (place + 1) * jnp.uint32(0x9E3779B1)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA77)
        return jnp.sum((bits.astype(jnp.uint32) + 1) * (mixed | 1), dtype=jnp.uint32)

    return [total(leaf) for leaf in leaves]
