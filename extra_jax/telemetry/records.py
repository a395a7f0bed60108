"""What the model wrote, and how it was judged: ``rollouts/step_000012.jsonl``, one row per completion of step 12.

Every file is written beside its name and renamed, so a file that exists is complete. ``evaluation_rows`` makes the same
rows for evaluations, without the numbers of each token.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extra_jax.data.problem import Problem, prompt_text
from extra_jax.errors import ExtraError
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade
from extra_jax.rollout.types import Rollouts
from extra_jax.telemetry.files import (
    ROLLOUTS_FOLDER,
    local_run_dir,
    parse_row,
    write_jsonl,
)

SIGNIFICANT_DIGITS = 5

_SHOWN = ("step", "uid", "prompt", "completion", "completion_ids", "verdict", "stop_reason")


def write_rollouts(
    run_dir: str | Path,
    step: int,
    problems: Sequence[Problem],
    rollouts: Rollouts,
    texts: Sequence[str],
    grades: Sequence[Grade],
    rewards: np.ndarray,
    advantages: np.ndarray,
    *,
    reward_parts: Mapping[str, np.ndarray] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """Writes the ``R`` completions of one step, one JSON row each.

    A row holds ``step, rollout_id, uid, source, prompt, completion, answer, verdict, grader, grader_detail, reward,
    reward_parts, advantage, stop_reason, prompt_ids, completion_ids, logprobs, entropies``; logprobs and entropies
    (nats) have one entry per completion token, rounded to 5 significant digits. What is not finite is ``null``.

    Args:
        problems: One per request; ``rollouts.prompt_index`` points into it.
        rollouts: ``R`` completions.
        texts: ``[R]`` decoded completions.
        grades: ``[R]`` grades.
        rewards: ``[R]`` rewards before normalisation.
        advantages: ``[R]``.
        reward_parts: Name -> ``[R]``; what each reward function returned, before weights. Default:
            ``{grader name: reward}``.
        columns: Further columns, name -> ``[R]`` JSON values (lineage, novelty, ...).

    Returns:
        Path of the file.

    Raises:
        ValueError: an argument does not have one entry per completion, or a column has the name of a standard one.
    """
    record = _sources(step, problems, rollouts)
    record |= _outcomes(rollouts, texts, grades, rewards, reward_parts or {})
    record["advantage"] = json_numbers(round_significant(advantages))
    record |= _tokens(rollouts)
    if clash := record.keys() & (columns or {}).keys():
        raise ValueError(f"columns {sorted(clash)} already exist in a rollout record")
    record |= dict(columns or {})
    return write_jsonl(record_path(run_dir, step), _rows(record, len(rollouts)))


def evaluation_rows(
    step: int,
    problems: Sequence[Problem],
    rollouts: Rollouts,
    texts: Sequence[str],
    scores: Scores,
) -> list[dict[str, Any]]:
    """``R`` rows of an evaluation: those of ``write_rollouts`` with ``correct`` and ``length`` (tokens), without the
    advantage, the prompt's tokens, logprobs and entropies, which would be most of a file of long solutions."""
    record = _sources(step, problems, rollouts)
    record |= _outcomes(rollouts, texts, scores.grades, scores.rewards, scores.parts)
    record["correct"] = scores.correct.tolist()
    record["length"] = rollouts.lengths.tolist()
    record["completion_ids"] = [rollouts.completion_ids(row).tolist() for row in range(len(rollouts))]
    return list(_rows(record, len(rollouts)))


Columns = dict[str, Sequence[Any]]


def _rows(record: Columns, count: int) -> Iterator[dict[str, Any]]:
    for name, values in record.items():
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} completions")
    return (dict(zip(record, values, strict=True)) for values in zip(*record.values(), strict=True))


def _sources(step: int, problems: Sequence[Problem], rollouts: Rollouts) -> Columns:
    """What each completion answers."""
    shown = [prompt_text(p.prompt) for p in problems]
    return {
        "step": [int(step)] * len(rollouts),
        "rollout_id": rollouts.rollout_ids.tolist(),
        "uid": [problems[request].uid for request in rollouts.prompt_index],
        "source": [problems[request].source for request in rollouts.prompt_index],
        "prompt": [shown[request] for request in rollouts.prompt_index],
    }


def _outcomes(
    rollouts: Rollouts,
    texts: Sequence[str],
    grades: Sequence[Grade],
    rewards: np.ndarray,
    reward_parts: Mapping[str, np.ndarray],
) -> Columns:
    """What each completion says and what it was worth."""
    reward = json_numbers(round_significant(rewards))
    for name, values in reward_parts.items():
        if len(values) != len(reward):
            raise ValueError(f"reward_parts[{name!r}] has {len(values)} entries for {len(reward)} rewards")
    parts = {name: json_numbers(round_significant(values)) for name, values in reward_parts.items()}
    if parts:
        divided = [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    else:
        divided = [{grade.grader: value} for grade, value in zip(grades, reward, strict=True)]
    return {
        "completion": texts,
        "answer": [grade.answer for grade in grades],
        "verdict": [grade.verdict.value for grade in grades],
        "grader": [grade.grader for grade in grades],
        "grader_detail": [grade.detail for grade in grades],
        "reward": reward,
        "reward_parts": divided,
        "stop_reason": [str(reason) for reason in rollouts.stop_reasons],
    }


def _tokens(rollouts: Rollouts) -> Columns:
    """Token ids and the two numbers of each completion token; what lies behind the last token is left out."""
    rows, mask = range(len(rollouts)), rollouts.completion_mask
    logprobs = round_significant(np.where(mask, rollouts.logprobs, 0.0))
    entropies = round_significant(np.where(mask, rollouts.entropies, 0.0))
    return {
        "prompt_ids": [np.asarray(ids).tolist() for ids in rollouts.prompt_ids],
        "completion_ids": [rollouts.completion_ids(row).tolist() for row in rows],
        "logprobs": [json_numbers(logprobs[row, : rollouts.lengths[row]]) for row in rows],
        "entropies": [json_numbers(entropies[row, : rollouts.lengths[row]]) for row in rows],
    }


def read_rollouts(run_dir: str | Path, step: int) -> list[dict[str, Any]]:
    """The rows that ``write_rollouts`` wrote for ``step``.

    Raises:
        ExtraError: there is no record of that step (the recorded steps are named) or a row is damaged.
    """
    path = record_path(run_dir, step)
    if not path.is_file():
        steps = recorded_steps(run_dir)
        known = f"steps with records: {', '.join(map(str, steps))}" if steps else "the run has none"
        raise ExtraError(f"{path}: no such file; {known} (see logging.rollouts_every)")
    return list(read_rows(path))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a record, of training or of an evaluation.

    Raises:
        ExtraError: the file is missing, or a row is damaged or has not what every row has.
    """
    if not path.is_file():
        raise ExtraError(f"{path}: no such file")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            yield read_row(line, path, number)


def read_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """One row of a record; ``path`` and ``number`` (from 1) name it in the error."""
    row = parse_row(line, path, number)
    if missing := [name for name in _SHOWN if name not in row]:
        raise ExtraError(
            f"{path}, row {number}: has no {', '.join(missing)}, so it is no record of a completion. Put the file back "
            "from a copy, or move it away: a report is made of what is left"
        )
    return row


def recorded_steps(run_dir: str | Path) -> list[int]:
    """Steps that have a record, ascending."""
    folder = local_run_dir(run_dir) / ROLLOUTS_FOLDER
    stems = (path.name.removesuffix(".jsonl").removeprefix("step_") for path in folder.glob("step_*.jsonl"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def record_path(run_dir: str | Path, step: int) -> Path:
    """``run_dir/rollouts/step_000012.jsonl``."""
    return local_run_dir(run_dir) / ROLLOUTS_FOLDER / f"step_{step:06d}.jsonl"


def round_significant(values: np.ndarray, digits: int = SIGNIFICANT_DIGITS) -> np.ndarray:
    """Rounds to significant decimal digits in float64, so that ``repr`` is short (for magnitudes of 1e-16 to 1e22).

    NaN and infinities stay.
    """
    values = np.asarray(values, np.float64)
    plain = np.isfinite(values) & (values != 0)
    exponent = np.floor(np.log10(np.abs(values, where=plain, out=np.ones_like(values))))
    shift = np.clip(digits - 1 - exponent, -300, 300)
    # Powers of ten up to 1e22 are exact, so dividing an integer by one is the correctly rounded decimal.
    with np.errstate(invalid="ignore"):
        small = np.round(values * 10.0 ** np.maximum(shift, 0)) / 10.0 ** np.maximum(shift, 0)
        large = np.round(values / 10.0 ** np.maximum(-shift, 0)) * 10.0 ** np.maximum(-shift, 0)
    return np.where(plain, np.where(shift >= 0, small, large), values)


def json_numbers(values: np.ndarray) -> list[float | None]:
    """What is not finite is ``None``."""
    listed = values.tolist()
    return listed if np.isfinite(values).all() else [v if math.isfinite(v) else None for v in listed]
