"""Standard data sets by name: where they are on the Hugging Face hub, and how they become our JSONL.

A set that was fetched is ``FOLDER/NAME.jsonl`` with the columns ``uid``, ``prompt``, ``answer`` and, where the set has
them, ``solution`` and ``source``; ``extra-jax eval`` finds it by its name.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extra_jax.data.problem import prompt_text
from extra_jax.data.rows import Row, to_problem
from extra_jax.data.sources import hub_rows, nearest, read_rows
from extra_jax.errors import ExtraError
from extra_jax.files import write_file


@dataclass(frozen=True)
class Standard:
    """A data set on the hub.

    Attributes:
        repository: ``org/name``.
        rows: Number of problems as published; another number is reported, not refused.
        config: Of the repository, if it has several.
        columns: Our column -> its column (``a.b``: the field ``b`` of ``a``).
        unwrap: Texts around every problem that belong to another prompt format, dropped.
    """

    repository: str
    split: str
    rows: int
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    unwrap: tuple[str, ...] = ()


STANDARD: Mapping[str, Standard] = {
    "aime24": Standard("HuggingFaceH4/aime_2024", "train", 30, columns={"prompt": "problem", "solution": "solution"}),
    "aime25": Standard("math-ai/aime25", "test", 30, columns={"prompt": "problem"}),
    "amc23": Standard("math-ai/amc23", "test", 40, columns={"prompt": "question"}),
    "math500": Standard(
        "HuggingFaceH4/MATH-500", "test", 500, columns={"prompt": "problem", "uid": "unique_id", "solution": "solution"}
    ),
    "minerva": Standard("math-ai/minervamath", "test", 272, columns={"prompt": "question"}),
    "olympiadbench": Standard(
        "Hothan/OlympiadBench",
        "train",
        674,
        config="OE_TO_maths_en_COMP",
        columns={"prompt": "question", "answer": "final_answer", "solution": "solution"},
    ),
    "dapo_math_17k": Standard(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "train",
        17917,  # each row is there a hundred times
        columns={"prompt": "prompt", "answer": "reward_model.ground_truth", "uid": "extra_info.index"},
        unwrap=(
            "Solve the following math problem step by step. The last line of your response should be of the form "
            "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n",
            '\n\nRemember to put your answer on its own line after "Answer:".',
        ),
    ),
}
"""The six benchmarks that reasoning models are compared on, and the usual training set."""


@dataclass(frozen=True)
class Fetched:
    """A set that is in its folder now, with the number of its problems and the number as published."""

    name: str
    path: Path
    rows: int
    published: int


def located(source: str, folder: str) -> str:
    """The file of a standard set; any other source as it is.

    Raises:
        ExtraError: a standard set that is not in the folder.
    """
    if source not in STANDARD:
        return source
    path = Path(folder) / f"{source}.jsonl"
    if not path.is_file():
        raise ExtraError(
            f"{path}: there is no such file. Fetch it with `extra-jax data fetch {source} --out {folder}`, or say in "
            "which folder it is with eval.dir=FOLDER"
        )
    return str(path)


def fetch(name: str, out: str | Path, source: str | Path | None = None) -> Fetched:
    """Brings one standard set into a folder.

    Args:
        out: Folder, made if missing; a file that is there already is replaced.
        source: Folder to read ``NAME.jsonl`` or ``NAME.parquet`` from, in the hub's columns or in ours; default: the
            hub, with the package `datasets`.

    Raises:
        ExtraError: unknown name, no network or package, no such file, or a row without problem or answer.
    """
    if name not in STANDARD:
        raise ExtraError(
            f"no data set is called {name!r}.{nearest(name, list(STANDARD))} There are {', '.join(STANDARD)}."
        )
    standard = STANDARD[name]
    rows = (
        hub_rows(standard.repository, standard.config, standard.split, name)
        if source is None
        else _file_rows(name, Path(source))
    )
    problems: dict[str, dict[str, Any]] = {}
    for row in rows:
        problem = _convert(name, standard, row)
        problems.setdefault(problem["uid"], problem)
    if not problems:
        raise ExtraError(f"{name}: the source has no rows")
    path = Path(out) / f"{name}.jsonl"
    write_file(path, "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in problems.values()))
    return Fetched(name, path, len(problems), standard.rows)


def _convert(name: str, standard: Standard, row: Row) -> dict[str, Any]:
    """A row of the hub, or of a file that has our columns already, in our columns."""
    columns = {"uid": "id", "answer": "answer"} | dict(standard.columns)
    cells = {part: _field(row.values, column) for part, column in columns.items()}
    if cells["prompt"] is None or cells["answer"] is None:
        problem = to_problem(row, name)
        cells = {"uid": problem.uid, "prompt": prompt_text(problem.prompt, only="user"), "answer": problem.answer}
        cells["solution"] = problem.solution
    text = {part: _text(cell) for part, cell in cells.items()}
    for wrapping in standard.unwrap:
        text["prompt"] = text["prompt"].replace(wrapping, "")
    for part in ("prompt", "answer"):
        if not text[part]:
            raise row.refuse(columns[part], "empty", f"The published {name} has it in every row. Check the source")
    uid = text["uid"] or _text(row.get("id")) or str(row.number)
    ours = {"uid": uid if uid.startswith(name) else f"{name}/{uid}", "prompt": text["prompt"], "answer": text["answer"]}
    if text.get("solution"):
        ours["solution"] = text["solution"]
    return ours | {"source": name}


def _field(values: Mapping[str, Any], path: str) -> Any:
    cell: Any = values
    for key in path.split("."):
        cell = cell.get(key) if isinstance(cell, Mapping) else None
    return cell


def _text(value: Any) -> str:
    """The text of a cell: a list of answers is joined, of a chat the last message counts, 27.0 is written 27."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        if value and isinstance(value[-1], Mapping):
            return _text(value[-1].get("content"))
        return ", ".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _file_rows(name: str, folder: Path) -> Iterator[Row]:
    for suffix in (".jsonl", ".parquet"):
        if (path := folder / f"{name}{suffix}").is_file():
            return read_rows(str(path))
    raise ExtraError(f"{folder}: has neither {name}.jsonl nor {name}.parquet")
