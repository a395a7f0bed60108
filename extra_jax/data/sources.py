"""Where problems come from: files, the Hugging Face hub, generated tasks. One front door, `load_problems`."""

import difflib
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from extra_jax.data.problem import Problem
from extra_jax.data.rows import COLUMNS, Row, check_template, dress, to_problem
from extra_jax.data.tasks import chain, countdown, gym
from extra_jax.doors import call_with, load_object
from extra_jax.errors import ExtraError
from extra_jax.files import ordinary_file, parse_json

TASKS: dict[str, Callable[..., list[Problem]]] = {"countdown": countdown.generate, "chain": chain.generate}
"""Generated task families by source name."""

GUESSERS: dict[str, Callable[[Problem], float]] = {"countdown": countdown.guess_rate}
"""How often somebody without a model passes a problem of a task. An own task brings it as an attribute, ``guesser``."""

_HUB = "hub:"
_logger = logging.getLogger(__name__)


def load_problems(
    source: str,
    *,
    split: str = "train",
    seed: int = 0,
    limit: int | None = None,
    prompt_template: str | None = None,
    system: str | None = None,
    columns: Mapping[str, str] | None = None,
    **difficulty: Any,
) -> list[Problem]:
    """The problems of one source, with unique uids, in a fixed order.

    Args:
        source: ``"countdown"``, ``"chain"``, ``"reasoning_gym:NAME"``, or ``"path/file.py:name"``, a function
            ``(count, *, seed, split, **difficulty) -> list[Problem]``; a path (local, ``gs://``, ``s3://``) that
            ends in ``.jsonl`` or ``.parquet``; or ``"hub:org/name"``, ``"hub:org/name:config"``.
        split: Split of a task or a hub data set. A file is one split, so anything but the default is refused there.
        seed: Decides which problems a task generates, and which rows ``limit`` keeps.
        limit: Number of problems. A task needs it. Of a longer file or hub set it keeps a random sample, in the
            order of the file: the head of a sorted file would be one subject or one difficulty.
        prompt_template: Text with ``{problem}``, applied to text prompts; other braces doubled.
        system: System message to put first; a text prompt becomes a chat.
        columns: Other column names of a plain file, e.g. ``{"prompt": "question"}``; see `rows.COLUMNS`.
        **difficulty: Bounds of a task, see `countdown.generate` and `chain.generate`.

    Returns:
        The problems, at least one.

    Raises:
        ExtraError: Unknown source, an option without effect on this source, bad rows, too few problems.
    """
    if prompt_template is not None:
        check_template(prompt_template)
    if system is not None and not system.strip():
        raise ExtraError("the system prompt is blank. Leave it out, or write one.")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ExtraError(f"{source}: limit is {limit!r}. Give a whole number of at least 1, or leave it out for all.")
    if source in TASKS or source.startswith(gym.PREFIX) or is_own_task(source):
        problems = _generate(source, split, seed, limit, columns, difficulty)
    else:
        _check_known(source)
        if difficulty:
            raise ExtraError(
                f"{source}: {', '.join(difficulty)} apply to {' and '.join(TASKS)} only. Add data.task={{}} (and "
                "eval.data.task={}) where a recipe sets them."
            )
        problems = _sample(_load(source, split, columns), limit, seed)
    if prompt_template is None and system is None:
        return problems
    return [dress(problem, prompt_template, system) for problem in problems]


def load_file(path: str, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """Problems of a JSON Lines or Parquet file: our layout, TRL's or verl's columns (see `extra_jax.data.rows`).

    Raises:
        ExtraError: No such file, a damaged one, a bad row; names file, row (of JSONL the line), key and remedy.
    """
    return _problems(read_rows(path), path, PurePosixPath(path).stem, columns)


def read_rows(path: str) -> Iterator[Row]:
    """The raw rows of a JSONL or Parquet file, in order.

    Raises:
        ExtraError: No such file, another kind of file, or JSON that is broken; names file and row.
    """
    reader = _READERS.get(PurePosixPath(path).suffix)
    if reader is None:
        raise ExtraError(f"{path}: not a path that ends in .jsonl or .parquet. Convert the file, or fix its name.")
    return reader(path)


def load_hub(name: str, split: str = "train", columns: Mapping[str, str] | None = None) -> list[Problem]:
    """Problems of a Hugging Face data set, ``"org/name"`` or ``"org/name:config"``.

    Raises:
        ExtraError: `datasets` is not installed, the set cannot be loaded, a bad row.
    """
    repository, _, config = name.partition(":")
    rows = hub_rows(repository, config or None, split, f"{_HUB}{name}[{split}]")
    return _problems(rows, f"{_HUB}{name}[{split}]", f"{repository}/{split}", columns)


def hub_rows(repository: str, config: str | None, split: str, where: str) -> Iterator[Row]:
    """The raw rows of a Hugging Face data set; ``where`` names it in errors."""
    try:
        import datasets
    except ImportError as error:
        raise ExtraError(
            f"{where} needs the package `datasets`, which is not installed. Run `pip install datasets`, "
            "or download the file and give its path or (data fetch --source) its folder."
        ) from error
    try:
        table = datasets.load_dataset(repository, config, split=split)
    except Exception as error:  # missing sets, configs, splits, networks and damaged files: each has its own
        raise ExtraError(
            f"{where}: {repository} could not be loaded from the hub ({error}). Without a network, download the file "
            "and give its path or (data fetch --source) its folder."
        ) from error
    return (Row(where, number, row) for number, row in enumerate(table, start=1))


def is_own_task(source: str) -> bool:
    """Whether a source names a function of the user's that generates problems: ``path/file.py:name``."""
    return ".py:" in source


def guess_rates(source: str, problems: Sequence[Problem]) -> list[float] | None:
    """``[P]`` probabilities that one guess without a model is correct; ``None`` where the source has no guesser.

    Raises:
        ExtraError: the guesser of an own task gives something else than a probability.
    """
    own = is_own_task(source)
    guesser = getattr(load_object(source, "data.source"), "guesser", None) if own else GUESSERS.get(source)
    if guesser is None:
        return None
    rates = [guesser(problem) for problem in problems]
    for problem, rate in zip(problems, rates, strict=True):
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ExtraError(f"{source}: guesser gives {rate!r:.40} for {problem.uid}; give a probability, 0 to 1")
    return rates


def _own_task(
    task: str, count: int, seed: int, split: str, difficulty: Mapping[str, Any], generate: Callable[..., Any]
) -> list[Problem]:
    """What a function of the user's generates; its uids are unique, and a split is told to it."""
    given = {"count": count, "seed": seed, "split": split, **difficulty}
    problems = call_with(generate, given, f"data.source={task}: task")
    if not isinstance(problems, list) or not problems or not all(isinstance(p, Problem) for p in problems):
        raise ExtraError(
            f"{task}: it must return a list of extra_jax.Problem with at least one; it gave {problems!r:.80}"
        )
    if len({problem.uid for problem in problems}) < len(problems):
        raise ExtraError(f"{task}: two problems have one uid; make it of what the problem asks")
    return problems


def _generate(
    task: str,
    split: str,
    seed: int,
    limit: int | None,
    columns: Mapping[str, str] | None,
    difficulty: Mapping[str, Any],
) -> list[Problem]:
    if limit is None:
        raise ExtraError(f"{task} is generated: say how many problems with `limit`.")
    if columns:
        raise ExtraError(f"{task} is generated and has no columns to rename. Remove `columns`.")
    if task.startswith(gym.PREFIX):
        return gym.generate(task.removeprefix(gym.PREFIX), limit, seed=seed, split=split, **difficulty)
    if is_own_task(task):
        return _own_task(task, limit, seed, split, difficulty, load_object(task, "data.source"))
    fixed = ("count", "seed", "split")
    known = [name for name in inspect.signature(TASKS[task]).parameters if name not in fixed]
    for name in difficulty:
        if name not in known:
            raise ExtraError(f"{task} has no difficulty {name!r}.{nearest(name, known)} It has {', '.join(known)}.")
    return TASKS[task](limit, seed=seed, split=split, **difficulty)


def _load(source: str, split: str, columns: Mapping[str, str] | None) -> list[Problem]:
    for part in columns or {}:
        if part not in COLUMNS:
            raise ExtraError(f"columns: no part of a problem is called {part!r}.{nearest(part, list(COLUMNS))}")
    if source.startswith(_HUB):
        return load_hub(source.removeprefix(_HUB), split, columns)
    if split != "train":
        raise ExtraError(f"{source}: a file has no split {split!r}. Remove `split`, or give the file of that split.")
    return load_file(source, columns)


def _check_known(source: str) -> None:
    if not source.startswith(_HUB) and PurePosixPath(source).suffix not in _READERS:
        raise ExtraError(
            f"source {source!r} is not known.{nearest(source, list(TASKS))} Give {', '.join(TASKS)}, "
            "reasoning_gym:NAME, path/file.py:name, a path that ends in .jsonl or .parquet, or hub:org/name."
        )


def _sample(problems: list[Problem], limit: int | None, seed: int) -> list[Problem]:
    """At most ``limit`` problems, drawn without replacement, in their old order."""
    if limit is None or limit >= len(problems):
        return problems
    rng = random.Random(f"limit/{seed}")
    return [problems[i] for i in sorted(rng.sample(range(len(problems)), limit))]


def _problems(rows: Iterable[Row], where: str, stem: str, columns: Mapping[str, str] | None) -> list[Problem]:
    """Problems of all rows. verl's sets repeat rows whole (DAPO-Math-17k each a hundred times): each counts once."""
    seen: dict[str, tuple[int, Problem]] = {}
    repeats: list[tuple[int, int]] = []
    for row in rows:
        problem = to_problem(row, stem, columns)
        first, same = seen.setdefault(problem.uid, (row.number, problem))
        if first == row.number:
            continue
        if row.get("reward_model") is None or (same.prompt, same.answer) != (problem.prompt, problem.answer):
            remedy = "Remove one, or give each its own: exploration memory and records are keyed by it."
            raise row.refuse("uid", f"{problem.uid!r} is the identity of row {first} too", remedy)
        repeats.append((row.number, first))
    if not seen:
        raise ExtraError(f"{where} has no rows. Give a file with at least one problem.")
    if repeats:
        example = "row {} is row {}".format(*repeats[0])
        _logger.warning("%s: %d rows repeat another (%s); each problem is used once", where, len(repeats), example)
    return [problem for _, problem in seen.values()]


def _jsonl_rows(path: str) -> Iterator[Row]:
    # Bytes, because text mode and `splitlines` would also break at U+2028 inside a string.
    with ordinary_file(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue  # a blank line is no row, but it counts: rows are numbered as an editor numbers lines
            values = parse_json(line, f"{path}, row {number}", "Write one JSON object a line.")
            if not isinstance(values, dict):
                raise ExtraError(f"{path}, row {number}: not a JSON object. Write {{...}} with the keys of a problem.")
            yield Row(path, number, values)


def _parquet_rows(path: str) -> Iterator[Row]:
    import pyarrow.parquet

    number = 0
    with ordinary_file(path).open("rb") as file:
        try:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    # pandas writes its row index as a column of this name.
                    values.pop("__index_level_0__", None)
                    yield Row(path, number, values)
        except Exception as error:  # pyarrow has one for every kind of damage, and Python's own for text and dates
            where = f"damaged after row {number}" if number else "is not a Parquet file, or damaged"
            raise ExtraError(f"{path} {where} ({error}). Write it again, or fix its name.") from error


_READERS = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}


def nearest(name: str, known: list[str]) -> str:
    """ " Did you mean ...?" for a typo, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
