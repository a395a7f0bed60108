"""What the model wrote, and how it was judged: rollout records and evaluation files of a run directory.

- ``rollouts/step_000012.jsonl``: one row per training completion of step 12;
- ``evals/step_000012.jsonl``: the same rows for the completions of the evaluation after step 12 (0: before training);
- ``evals/step_000012.json``: that evaluation in numbers, with the matrix problems x samples.

Every file is written beside its name and renamed, so a file that exists is complete.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from extra_jax.data.problem import Problem, Prompt
from extra_jax.errors import ExtraError
from extra_jax.reward.verdict import Grade
from extra_jax.rollout.types import Rollouts
from extra_jax.telemetry.files import (
    EVALS_FOLDER,
    ROLLOUTS_FOLDER,
    local_run_dir,
    parse_row,
    read_jsonl,
    to_json,
    write_atomically,
    write_jsonl,
)
from extra_jax.telemetry.statistics import evaluation_metrics, evaluation_summary

Kind = Literal["rollouts", "evals"]
_FOLDERS: dict[str, str] = {"rollouts": ROLLOUTS_FOLDER, "evals": EVALS_FOLDER}
SIGNIFICANT_DIGITS = 5


def write_rollouts(
    run_dir: str | Path,
    step: int,
    problems: Sequence[Problem],
    rollouts: Rollouts,
    texts: Sequence[str],
    grades: Sequence[Grade],
    rewards: np.ndarray,
    advantages: np.ndarray | None = None,
    *,
    reward_parts: Mapping[str, np.ndarray] | None = None,
    prompt_texts: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    kind: Kind = "rollouts",
) -> Path:
    """Writes the ``R`` completions of one step, one JSON row each.

    A row holds ``step, rollout_id, uid, source, prompt, completion, answer, verdict, grader, grader_detail, reward,
    reward_parts, advantage, stop_reason, prompt_ids, completion_ids, logprobs, entropies``; logprobs and entropies
    (nats) have one entry per completion token, rounded to 5 significant digits. What is not finite is ``null``.

    Args:
        run_dir: Local run directory.
        step: Trainer step.
        problems: One per request; ``rollouts.prompt_index`` points into it.
        rollouts: ``R`` completions.
        texts: ``[R]`` decoded completions.
        grades: ``[R]`` grades.
        rewards: ``[R]`` rewards before normalisation.
        advantages: ``[R]``, or ``None`` in an evaluation.
        reward_parts: Name -> ``[R]``; the parts that add up to the reward. Default: ``{grader name: reward}``.
        prompt_texts: Per request, the prompt exactly as the model saw it (template applied); default: the problem's
            own text.
        columns: Further columns, name -> ``[R]`` JSON values (lineage, novelty, ...).
        kind: ``"rollouts"`` or ``"evals"``: the folder.

    Returns:
        Path of the file.

    Raises:
        ValueError: an argument does not have one entry per completion, or a column has the name of a standard one.
    """
    record = _sources(step, problems, rollouts, prompt_texts)
    record |= _outcomes(rollouts, texts, grades, rewards, advantages, reward_parts or {})
    record |= _tokens(rollouts)
    if clash := record.keys() & (columns or {}).keys():
        raise ValueError(f"columns {sorted(clash)} already exist in a rollout record")
    record |= columns or {}
    for name, values in record.items():
        if len(values) != len(rollouts):
            raise ValueError(f"{name} has {len(values)} entries for {len(rollouts)} completions")
    rows = (dict(zip(record, values, strict=True)) for values in zip(*record.values(), strict=True))
    return write_jsonl(record_path(run_dir, step, kind), rows)


Columns = dict[str, Sequence[Any]]


def _sources(step: int, problems: Sequence[Problem], rollouts: Rollouts, prompt_texts: Sequence[str] | None) -> Columns:
    """What each completion answers."""
    shown = [prompt_text(p.prompt) for p in problems] if prompt_texts is None else prompt_texts
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
    advantages: np.ndarray | None,
    reward_parts: Mapping[str, np.ndarray],
) -> Columns:
    """What each completion says and what it was worth."""
    reward = _numbers(round_significant(rewards))
    for name, values in reward_parts.items():
        if len(values) != len(reward):
            raise ValueError(f"reward_parts[{name!r}] has {len(values)} entries for {len(reward)} rewards")
    parts = {name: _numbers(round_significant(values)) for name, values in reward_parts.items()}
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
        "advantage": [None] * len(rollouts) if advantages is None else _numbers(round_significant(advantages)),
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
        "logprobs": [_numbers(logprobs[row, : rollouts.lengths[row]]) for row in rows],
        "entropies": [_numbers(entropies[row, : rollouts.lengths[row]]) for row in rows],
    }


def read_rollouts(run_dir: str | Path, step: int, kind: Kind = "rollouts") -> list[dict[str, Any]]:
    """The rows that ``write_rollouts`` wrote for ``step``.

    Raises:
        ExtraError: there is no record of that step (the recorded steps are named) or a row is damaged.
    """
    path = record_path(run_dir, step, kind)
    if not path.is_file():
        steps = recorded_steps(run_dir, kind)
        known = f"steps with records: {', '.join(map(str, steps))}" if steps else "the run has none"
        raise ExtraError(f"{path}: no such file; {known} (see logging.rollouts_every)")
    return list(read_jsonl(path))


def recorded_steps(run_dir: str | Path, kind: Kind = "rollouts", suffix: str = ".jsonl") -> list[int]:
    """Steps that have a file of this kind, ascending."""
    folder = local_run_dir(run_dir) / _FOLDERS[kind]
    stems = (path.name.removesuffix(suffix).removeprefix("step_") for path in folder.glob(f"step_*{suffix}"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def record_path(run_dir: str | Path, step: int, kind: Kind = "rollouts", suffix: str = ".jsonl") -> Path:
    """``run_dir/rollouts/step_000012.jsonl``."""
    return local_run_dir(run_dir) / _FOLDERS[kind] / f"step_{step:06d}{suffix}"


def write_evaluation(
    run_dir: str | Path,
    step: int,
    uids: Sequence[str],
    correct: np.ndarray,
    lengths: np.ndarray,
    truncated: np.ndarray,
    *,
    source: str = "",
    grader: str = "",
    sampling: Mapping[str, Any] | None = None,
    verdicts: np.ndarray | None = None,
) -> dict[str, float]:
    """Writes ``evals/step_N.json`` and returns the evaluation as flat metrics for ``MetricsLog.log``.

    Args:
        run_dir: Local run directory.
        step: Trainer step after which the evaluation ran; 0 before training.
        uids: ``[P]`` identities of the problems; before/after comparisons pair on them.
        correct: ``[P, N]`` bool.
        lengths: ``[P, N]`` completion tokens.
        truncated: ``[P, N]`` bool, 1 marks a completion cut at its length cap.
        source: Data set or task, shown in the report.
        grader: Name and version of the grader; a score without it cannot be compared.
        sampling: Temperature, top_p, ... of the evaluation.
        verdicts: ``[P, N]`` verdict strings, optional.

    Returns:
        ``eval_avg@N``, ``eval_pass@k`` with ``_low`` and ``_high``, ``eval_completions/mean_length``,
        ``eval_completions/clipped_ratio``.

    Raises:
        ExtraError: the matrix is empty.
        ValueError: the shapes disagree.
    """
    correct, lengths, truncated = np.asarray(correct, bool), np.asarray(lengths), np.asarray(truncated, bool)
    if not (correct.shape == lengths.shape == truncated.shape) or len(uids) != len(correct):
        raise ValueError(
            f"shapes disagree: {len(uids)} uids, correct {correct.shape}, lengths {lengths.shape}, "
            f"truncated {truncated.shape}"
        )
    summary = evaluation_summary(correct)
    record = {
        "step": int(step),
        "source": source,
        "grader": grader,
        "sampling": dict(sampling or {}),
        "summary": summary,
        "mean_length": float(lengths.mean()),
        "clipped_ratio": float(truncated.mean()),
        "uids": list(uids),
        "correct": correct.astype(int).tolist(),
        "lengths": lengths.astype(int).tolist(),
        "truncated": truncated.astype(int).tolist(),
    }
    if verdicts is not None:
        record["verdicts"] = np.asarray(verdicts).astype(str).tolist()
    write_atomically(record_path(run_dir, step, "evals", ".json"), to_json(record) + "\n")
    return {
        **evaluation_metrics(summary),
        "eval_completions/mean_length": record["mean_length"],
        "eval_completions/clipped_ratio": record["clipped_ratio"],
    }


def read_evaluations(run_dir: str | Path) -> list[dict[str, Any]]:
    """Every evaluation of the run in step order, as ``write_evaluation`` stored it; empty if there is none.

    Raises:
        ExtraError: a file is damaged.
    """
    paths = [record_path(run_dir, step, "evals", ".json") for step in recorded_steps(run_dir, "evals", ".json")]
    return [parse_row(path.read_text(encoding="utf-8"), path, 1) for path in paths]


def prompt_text(prompt: Prompt) -> str:
    """A prompt as readable text: itself, or the chat with a ``[role]`` line above each message."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt)


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


def _numbers(values: np.ndarray) -> list[float | None]:
    listed = values.tolist()
    return listed if np.isfinite(values).all() else [v if math.isfinite(v) else None for v in listed]
