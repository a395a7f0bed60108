"""Evaluations of a run directory, one folder a benchmark.

- ``evals/math500/step_000012.jsonl``: a row per completion of the evaluation after step 12 (0: before training);
- ``evals/math500/step_000012.json``: that evaluation in numbers, with the matrix problems x samples;
- ``evals/math500/step_000012.part.jsonl``: one that is not finished: what was evaluated, then the rows so far;
- ``evals/math500/other_1a2b3c4d/``: the same files of a measurement that was made in another way (other samples,
  sampling, problems, grader or weights) where the place was taken. Nothing that was measured is overwritten.

An evaluation grows shard by shard, each written to disk before the next begins, so that a killed one goes on.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from extra_jax.errors import ExtraError
from extra_jax.files import as_model, parse_json, read_json, remove_orphans, whole_file, write_file
from extra_jax.telemetry.files import EVALS_FOLDER, local_run_dir, parse_row, to_json
from extra_jax.telemetry.records import read_rows
from extra_jax.telemetry.statistics import (
    evaluation_metrics,
    evaluation_summary,
    hierarchical_draws,
    pass_at_k,
    quantile_interval,
)

Row = dict[str, Any]
Record = dict[str, Any]

PART = ".part.jsonl"
ROWS = ".jsonl"
NUMBERS = ".json"
_NUMBERED = ("uid", "correct", "verdict", "answer", "length", "stop_reason")


class Interval(BaseModel):
    """A score with its 95 % interval."""

    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Evaluation(BaseModel):
    """What the numbers of an evaluation have to hold for whoever reads them; further keys are its identity."""

    model_config = ConfigDict(extra="allow", strict=True)

    step: NonNegativeInt
    num_problems: PositiveInt
    num_generations: PositiveInt
    grader: str
    problems: str
    seed: int
    sampling: dict[str, Any]
    summary: dict[Annotated[str, Field(pattern=r"^num_\w+$|^(avg|pass|maj)@[1-9]\d{0,6}$")], Interval | int]
    mean_length: FiniteFloat
    clipped_ratio: FiniteFloat
    uids: list[str]
    correct: list[list[Literal[0, 1]]]
    lengths: list[list[NonNegativeInt]]
    truncated: list[list[Literal[0, 1]]]
    verdicts: list[list[str]]
    majority: list[FiniteFloat] | None = None
    guesser: list[Annotated[FiniteFloat, Field(ge=0, le=1)]] | None = None

    @model_validator(mode="after")
    def _has_its_shape(self) -> Self:
        problems, samples = self.num_problems, self.num_generations
        if len(set(self.uids)) != problems or len(self.uids) != problems:
            raise ValueError(f"uids: there are {problems} problems, so as many different identities")
        for name in ("correct", "lengths", "truncated", "verdicts"):
            if [len(row) for row in getattr(self, name)] != [samples] * problems:
                raise ValueError(f"{name}: not a matrix of {problems} problems x {samples} samples")
        if self.majority is not None and len(self.majority) != problems:
            raise ValueError(f"majority: not {problems} numbers")
        if self.guesser is not None and len(self.guesser) != problems:
            raise ValueError(f"guesser: not {problems} numbers")
        if beyond := [name for name in self.summary if "@" in name and int(name.partition("@")[2]) > samples]:
            raise ValueError(f"summary: {beyond[0]} of {samples} samples")
        if self.majority is None and any(name.startswith("maj@") for name in self.summary):
            raise ValueError("summary: a majority vote, but no `majority`")
        return self


class EvaluationLog:
    """One evaluation of one benchmark, while it is made.

    Args:
        step: Trainer step after which it runs; 0 before training.
        identity: What is evaluated, as JSON values: ``benchmark`` (its name), ``num_problems``, ``num_generations``
            and whatever else two evaluations must agree in to be one (problems, sampling, seed, grader, weights).
        own: It is one of the run itself, which reports and comparisons read. It takes its place, and what was measured
            there in another way moves aside. Any other evaluation goes aside where the place is taken.

    Attributes:
        folder: Where it is written.
        aside: Whether that is not the place that reports and comparisons read.
    """

    def __init__(self, run_dir: str | Path, step: int, identity: Mapping[str, Any], *, own: bool = True):
        self._place = evaluation_path(run_dir, identity["benchmark"], step, "").parent
        self._step, self._identity = step, json.loads(to_json(identity))  # as it will be read
        self._part: BinaryIO | None = None
        self._path = self._paths(self._place)
        self.aside = not own and self._is_taken()
        self.folder = self._place / other_folder(self._identity) if self.aside else self._place
        self._path = self._paths(self.folder)

    def _paths(self, folder: Path) -> dict[str, Path]:
        return {suffix: folder / f"step_{self._step:06d}{suffix}" for suffix in (PART, ROWS, NUMBERS)}

    def _is_taken(self) -> bool:
        """Whether another evaluation is at the place, finished or not."""
        identities = (_first_row(self._path[suffix]) for suffix in (NUMBERS, PART))
        return any(row is not None and not self._identity.items() <= row.items() for row in identities)

    def finished(self) -> Record | None:
        """The numbers of this very evaluation, if it was finished before."""
        record = _first_row(self._path[NUMBERS])
        if record is None or not self._path[ROWS].is_file() or not self._identity.items() <= record.items():
            return None
        self._path[PART].unlink(missing_ok=True)  # of a kill between the last two lines of `finish`
        return _checked(record, self._path[NUMBERS])

    def resume(self, shard: int) -> int:
        """Problems that are done, a multiple of ``shard`` or all; what a kill left behind them is cut off.

        An unfinished evaluation of something else is begun anew.

        Raises:
            ExtraError: another process is at it.
        """
        path, total, n = self._path[PART], self._identity["num_problems"], self._identity["num_generations"]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.open("a+b")
        try:
            fcntl.flock(self._part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExtraError(f"{path}: another process is at this evaluation; wait for it, or stop it") from error
        remove_orphans(path.parent, f"step_{self._step:06d}.*")
        self._part.seek(0)
        head = f"{to_json(self._identity)}\n".encode()
        if self._part.readline() != head:
            self._part.truncate(0)
            self._write(head)
            return 0
        lengths = [len(head), *(len(line) for line in self._part if line.endswith(b"\n"))]
        done = min((len(lengths) - 1) // n, total)
        if done < total:
            done -= done % shard
        self._part.truncate(sum(lengths[: 1 + done * n]))
        return done

    def append(self, lines: Sequence[str]) -> None:
        """Adds the rows of further problems, each as ``to_json`` writes it; they are on disk when this returns."""
        self._write("".join(f"{line}\n" for line in lines).encode())

    def _write(self, data: bytes) -> None:
        assert self._part is not None  # `begin` comes first
        self._part.write(data)  # always at the end
        self._part.flush()
        os.fsync(self._part.fileno())

    def rows(self) -> list[Row]:
        """The rows so far, problem by problem, with what the numbers are made of: the texts may not fit into memory."""
        with self._path[PART].open(encoding="utf-8") as file:
            file.readline()
            parsed = (parse_row(line, self._path[PART], number) for number, line in enumerate(file, start=2))
            return [{key: row[key] for key in _NUMBERED} for row in parsed]

    def finish(self, majority: Sequence[float] | None = None, guesser: Sequence[float] | None = None) -> Record:
        """Writes the numbers and gives the completions their name.

        Args:
            majority: ``[P]`` scores of majority voting, where samples can vote.
            guesser: ``[P]`` probabilities that a guess without a model is correct, where the task knows.

        Raises:
            ValueError: problems are missing.
        """
        rows, n = self.rows(), self._identity["num_generations"]
        if len(rows) != n * self._identity["num_problems"]:
            raise ValueError(f"{len(rows)} rows for {self._identity['num_problems']} problems x {n} samples")
        record = evaluation_record(self._step, self._identity, rows, majority)
        record["guesser"] = None if guesser is None else list(guesser)
        self._move_aside()
        with self._path[PART].open("rb") as part, whole_file(self._path[ROWS]) as file:
            part.readline()
            shutil.copyfileobj(part, file)
        write_file(self._path[NUMBERS], to_json(record) + "\n")
        self._path[PART].unlink()
        return record

    def _move_aside(self) -> None:
        """Moves what was measured here in another way; the numbers last, because they say where it all goes."""
        there = _first_row(self._path[NUMBERS])
        if there is None:
            return
        if self._identity.items() <= there.items():  # of this very evaluation, without its completions
            self._path[NUMBERS].unlink()
            return
        folder = self._place / other_folder({key: there[key] for key in self._identity if key in there})
        folder.mkdir(exist_ok=True)
        for suffix in (ROWS, NUMBERS):
            if self._path[suffix].is_file():
                self._path[suffix].replace(folder / self._path[suffix].name)

    def close(self) -> None:
        """Lets other processes at it; may be called again."""
        if self._part is not None:
            self._part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def other_folder(identity: Mapping[str, Any]) -> str:
    """``other_1a2b3c4d``: the folder of evaluations that were made in another way than those of the run."""
    return f"other_{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"


def _first_row(path: Path) -> Row | None:
    """The first line of a file as JSON; ``None`` where there is no file, or a kill left half a line."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        line = file.readline()
    row = parse_json(line, str(path)) if line.endswith(b"\n") else None
    if not isinstance(row, dict | None):
        raise ExtraError(f"{path}: expected a JSON object, found {type(row).__name__}")
    return row


def _checked(record: Any, path: Path) -> Record:
    as_model(Evaluation, record, str(path))
    return record


def evaluation_record(
    step: int, identity: Mapping[str, Any], rows: Sequence[Row], majority: Sequence[float] | None = None
) -> Record:
    """An evaluation in numbers: ``identity``, ``summary``, mean length, truncation, and ``[P][N]`` matrices.

    Args:
        rows: ``P * N`` rows, problem by problem, with ``uid``, ``correct``, ``verdict``, ``length``, ``stop_reason``.
        majority: ``[P]`` scores of majority voting.
    """
    n = identity["num_generations"]

    def matrix(values: Sequence[Any]) -> list[list[Any]]:
        return [list(values[start : start + n]) for start in range(0, len(values), n)]

    correct = matrix([int(row["correct"]) for row in rows])
    truncated = matrix([int(row["stop_reason"] == "length") for row in rows])
    lengths = matrix([row["length"] for row in rows])
    votes = None if majority is None else np.asarray(majority)
    return {
        "step": int(step),
        **identity,
        "summary": evaluation_summary(np.array(correct), votes),
        "mean_length": float(np.mean(lengths)),
        "clipped_ratio": float(np.mean(truncated)),
        "uids": [row["uid"] for row in rows[::n]],
        "correct": correct,
        "lengths": lengths,
        "truncated": truncated,
        "verdicts": matrix([row["verdict"] for row in rows]),
        "majority": None if majority is None else list(majority),
    }


def mean_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The scores that all benchmarks have, averaged over them with equal weights, with 95 % intervals.

    Returns:
        ``{"pass@1": {"mean", "low", "high"}, ...}``; problems are drawn within each benchmark (10,000 times).
    """
    means = {}
    for name in records[0]["summary"]:
        values = [value for record in records if (value := _scores(record, name)) is not None]
        if len(values) < len(records):
            continue
        draws = hierarchical_draws([value[None, :] for value in values]).mean(axis=1)
        low, high = quantile_interval(draws)
        means[name] = {"mean": float(np.mean([value.mean() for value in values])), "low": low, "high": high}
    return means


def _scores(record: Mapping[str, Any], name: str) -> np.ndarray | None:
    """``[P]`` of one score."""
    kind, _, at = name.partition("@")
    if kind not in ("pass", "maj") or name not in record["summary"]:
        return None
    if kind == "maj":
        return np.asarray(record["majority"])
    correct = np.asarray(record["correct"])
    return pass_at_k(correct.shape[1], correct.sum(axis=1), int(at))


def guessed_pass_at_k(record: Mapping[str, Any], name: str) -> float | None:
    """``name`` (``pass@k``) of somebody who guesses ``k`` times without a model; ``None`` where no guesser is known."""
    if record.get("guesser") is None or not name.startswith("pass@"):
        return None
    return float(np.mean(1 - (1 - np.asarray(record["guesser"])) ** int(name.partition("@")[2])))


def flat_metrics(record: Record, prefix: str) -> dict[str, float]:
    """An evaluation as flat metrics: ``eval_pass@1``, ``eval_pass@1_low``, ..., ``eval_completions/mean_length``.

    Args:
        prefix: ``eval_``, or ``eval_NAME_`` where there are several benchmarks (as the Hugging Face trainers do).
    """
    return {
        **evaluation_metrics(record["summary"], prefix),
        f"{prefix}completions/mean_length": record["mean_length"],
        f"{prefix}completions/clipped_ratio": record["clipped_ratio"],
    }


def evaluation_path(run_dir: str | Path, benchmark: str, step: int, suffix: str = NUMBERS) -> Path:
    """``run_dir/evals/math500/step_000012.json``."""
    return local_run_dir(run_dir) / EVALS_FOLDER / benchmark / f"step_{step:06d}{suffix}"


def evaluated_steps(run_dir: str | Path, benchmark: str, suffix: str = NUMBERS) -> list[int]:
    """Steps that have a finished evaluation of a benchmark, ascending."""
    folder = local_run_dir(run_dir) / EVALS_FOLDER / benchmark
    stems = (path.name.removesuffix(suffix).removeprefix("step_") for path in folder.glob(f"step_*{suffix}"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def read_evaluations(run_dir: str | Path) -> dict[str, list[Record]]:
    """Every finished evaluation of a run: benchmark -> numbers in step order; benchmarks by name.

    Raises:
        ExtraError: a file is damaged.
    """
    folders = (path for path in (local_run_dir(run_dir) / EVALS_FOLDER).glob("*") if path.is_dir())
    by_benchmark = {}
    for name in sorted(path.name for path in folders):
        paths = [evaluation_path(run_dir, name, step) for step in evaluated_steps(run_dir, name)]
        if paths:
            by_benchmark[name] = [_checked(read_json(path), path) for path in paths]
    return by_benchmark


def read_completions(run_dir: str | Path, benchmark: str, step: int) -> list[Row]:
    """The completions of an evaluation, problem by problem.

    Raises:
        ExtraError: there is no such evaluation (those that exist are named), or a row is damaged.
    """
    path = evaluation_path(run_dir, benchmark, step, ROWS)
    if not path.is_file():
        steps = ", ".join(map(str, evaluated_steps(run_dir, benchmark, ROWS))) or "none"
        raise ExtraError(f"{path}: no such file; evaluated steps of {benchmark}: {steps}")
    return list(read_rows(path))
