"""One training step in a file: everything that went into its update, and what came out.

A bundle is an ``.npz``: arrays of all processes, and one JSON text ``about`` with the configuration, the fingerprint of
the parameters before the update and the metrics of each update. ``extra_jax/replay.py`` computes it again.
"""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from extra_jax.config import Config, config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.files import as_model, ordinary_file, parse_json, whole_file
from extra_jax.parallel.processes import allgather_rows, is_main
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts, StopReason

REPLAY_FOLDER = "replay"
_FORMAT = 2
_SCORES = ("rewards", "valid", "correct")
_ARRAYS = ("tokens", "lengths", "logprobs", "full_logprobs", "filter_logprob_mass", "entropies")
# Array -> its kind of number and its axes: R rows, C completion tokens; P and F, all tokens of prompts and prefixes.
_COLUMNS = {
    "rollout_ids": ("i", "R"), "lengths": ("i", "R"), "stop_reasons": ("i", "R"), "tokens": ("i", "RC"),
    "prompts": ("i", "P"), "prompts_lengths": ("i", "R"), "prefixes": ("i", "F"), "prefixes_lengths": ("i", "R"),
    "logprobs": ("f", "RC"), "full_logprobs": ("f", "RC"), "filter_logprob_mass": ("f", "RC"), "entropies": ("f", "RC"),
    "rewards": ("f", "R"), "valid": ("b", "R"), "correct": ("b", "R"), "advantages": ("f", "R"),
}  # fmt: skip


class About(BaseModel):
    """The JSON text of a bundle."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[2]
    step: PositiveInt
    config: dict[str, Any]
    fingerprint: str
    devices: PositiveInt
    updates: list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """One step; ``R`` completions of all processes, groups adjacent.

    Attributes:
        step: finished steps after it.
        fingerprint: of the parameters before the first update.
        rollouts: what was learned from.
        rewards: ``[R]`` f64.
        valid: ``[R]`` bool; 1 marks a reward that says something about the policy.
        correct: ``[R]`` bool.
        advantages: ``[R]`` f64.
        updates: metrics of each optimizer update.
    """

    step: int
    config: Config
    fingerprint: str
    rollouts: Rollouts
    rewards: np.ndarray
    valid: np.ndarray
    correct: np.ndarray
    advantages: np.ndarray
    updates: list[dict[str, float]]
    devices: int


def write_bundle(
    run_dir: Path,
    step: int,
    config: Config,
    fingerprint: str,
    rollouts: Rollouts,
    scores: Scores,
    advantages: np.ndarray,
    updates: list[dict[str, jax.Array]],
) -> Path:
    """Writes ``run_dir/replay/step_N.npz``; all processes call it with their own rows, process 0 writes.

    Arguments are the fields of ``Bundle``; those of ``scores`` are some of them.
    """
    columns = {
        "rollout_ids": rollouts.rollout_ids,
        **_flat("prompts", rollouts.prompt_ids),
        **_flat("prefixes", rollouts.prefix_ids),
        **{name: getattr(rollouts, name) for name in _ARRAYS},
        "stop_reasons": np.array([list(StopReason).index(reason) for reason in rollouts.stop_reasons], np.int32),
        **{name: getattr(scores, name) for name in _SCORES},
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
        with whole_file(path) as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **gathered)  # type: ignore[arg-type]  # numpy: one of `**` is allow_pickle
    return path


def read_bundle(path: Path) -> Bundle:
    """Reads what ``write_bundle`` wrote.

    Raises:
        ExtraError: no such file, damaged, or of another format.
    """
    try:
        content = ordinary_file(path).read_bytes()
    except ExtraError as error:
        raise ExtraError(f"{error} train.dump_steps=[N] writes run.dir/{REPLAY_FOLDER}/step_N") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib each have their own for a damaged file
        raise ExtraError(f"{path}: not a replay bundle, or damaged: {error}") from error
    where = f"{path}, about"
    about = as_model(About, parse_json(str(columns.pop("about", "")), where), where)
    _check(columns, path)
    config = config_from_dict(about.config, str(path))
    ids, group = columns["rollout_ids"], config.train.num_generations
    _, prompt_index = np.unique(ids // group, return_inverse=True)
    rollouts = Rollouts(
        rollout_ids=ids,
        prompt_index=prompt_index.astype(np.int32),
        prompt_ids=_split("prompts", columns),
        stop_reasons=[list(StopReason)[index] for index in columns["stop_reasons"]],
        prefix_ids=_split("prefixes", columns),
        **{name: columns[name] for name in _ARRAYS},
    )
    outcome = {name: columns[name] for name in (*_SCORES, "advantages")}
    return Bundle(
        about.step, config, about.fingerprint, rollouts, **outcome, updates=about.updates, devices=about.devices
    )


def _check(columns: dict[str, np.ndarray], path: Path) -> None:
    """Refuses arrays that are missing, of another kind or shape, or that do not agree with each other."""
    if differing := sorted(columns.keys() ^ _COLUMNS.keys()):
        raise ExtraError(f"{path}: not the arrays of a bundle; these differ: {', '.join(differing)}")
    sizes: dict[str, int] = {}
    for name, (kind, axes) in _COLUMNS.items():
        column = columns[name]
        same_axes = column.dtype.kind == kind and column.ndim == len(axes)
        if not same_axes or [sizes.setdefault(*pair) for pair in zip(axes, column.shape, strict=True)] != [
            *column.shape
        ]:
            raise ExtraError(f"{path}: {name} is {column.dtype}{[*column.shape]}, which does not fit the other arrays")
    for name, least, most in (
        ("rollout_ids", 0, 2**62),
        ("lengths", 0, sizes["C"]),
        ("stop_reasons", 0, len(StopReason) - 1),
        ("prompts_lengths", 1, sizes["P"]),
        ("prefixes_lengths", 0, sizes["F"]),
    ):
        if np.any((columns[name] < least) | (columns[name] > most)):
            raise ExtraError(f"{path}: {name} has entries outside {least} to {most:,}")
    for name in ("prompts", "prefixes"):
        if (total := int(columns[f"{name}_lengths"].sum())) != len(columns[name]):
            raise ExtraError(f"{path}: {name}_lengths add up to {total:,}, {name} has {len(columns[name]):,} tokens")
    if not sizes["R"]:
        raise ExtraError(f"{path}: it has no completions")


def _flat(name: str, rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of different lengths as one array and their lengths."""
    lengths = np.array([len(ids) for ids in rows], np.int32)
    return {f"{name}_lengths": lengths, name: np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32)}


def _split(name: str, columns: dict[str, np.ndarray]) -> list[np.ndarray]:
    return np.split(columns[name], np.cumsum(columns[f"{name}_lengths"])[:-1])
