"""The folder that trainer and judge share: rollouts and scores as append-only Parquet parts.

    DIR/sampling.json                                how the rollouts were drawn
    DIR/rollouts/<round>-<policy>-<part>.parquet     one row a rollout, one row group a prompt
    DIR/scores/<judge>/<part of rollouts>-<try>.parquet    one row a judged unit
    DIR/scores/<judge>/judge.json                    what that judge was asked, and how

DIR is local or a bucket (``gs://``), through ``epath``. A part appears whole or not at all: it is written beside its
name and renamed (a bucket's objects appear when they are complete). Names and ids are functions of what is stored, so
writing the same thing twice leaves one copy. Readers skip files without a Parquet footer, which are copies under way,
and say how many there were.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from extra_jax.errors import ExtraError
from extra_jax.files import ordinary_file, read_json_object, write_file

_logger = logging.getLogger(__name__)

ROLLOUTS, SCORES = "rollouts", "scores"
JUDGE_FILE, SAMPLING_FILE = "judge.json", "sampling.json"

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())

ROLLOUT_SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),  # <group>/<sample>
        ("group", pa.string()),  # <round>/<uid>@<policy>: the rollouts that are compared with each other
        ("round", pa.int32()),
        ("uid", pa.string()),
        ("sample", pa.int32()),
        ("policy", pa.string()),  # fingerprint of the weights
        ("source", pa.string()),
        ("domain", pa.string()),  # math, science, code
        ("problem", pa.string()),
        ("reference", pa.string()),  # for the judge; null where there is none
        ("answer", pa.string()),
        ("prompt_ids", _INTS),  # exactly what the policy saw
        ("token_ids", _INTS),
        ("logprobs", _FLOATS),  # of the sampling distribution, one a token
        ("log_kept", _FLOATS),  # `Rollouts.filter_logprob_mass`
        ("entropies", _FLOATS),  # nats, at temperature 1
        ("text", pa.string()),
        ("text_sha", pa.string()),  # filled in by write_rollouts
        ("segment_tokens", _INTS),  # end of each segment in tokens
        ("segment_chars", _INTS),  # end of each segment in characters of the text
        ("stop_reason", pa.string()),
        ("verdict", pa.string()),  # of the verifier, never of the judge
    ]
)

SCORE_SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("segment", pa.int32()),  # from 0; 0 for a whole rollout
        ("text_sha", pa.string()),  # of the rollout's whole text: a score of another text is stale
        ("status", pa.string()),  # ok, parse, truncated, timeout, transport, too_long
        ("score", pa.float32()),  # 1..5, mean over samples; null unless ok
        ("attempts", pa.int32()),  # requests that were answered or failed, over all samples
        ("reply", pa.string()),  # of the last attempt; null where none came
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latency", pa.float32()),  # seconds, of the last attempt
    ]
)

_TYPES = {column.name: column.type for column in (*ROLLOUT_SCHEMA, *SCORE_SCHEMA)}

# What a reader needs; files written by others may hold no more than this.
SCORE_KEYS = ("rollout_id", "segment", "text_sha", "status", "score")


def text_sha(text: str) -> str:
    """16 hex digits over a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def group_id(round_: int, uid: str, policy: str) -> str:
    """Identity of the rollouts of one problem by one policy in one round."""
    return f"{round_}/{uid}@{policy}"


def part_name(round_: int, policy: str, part: int) -> str:
    """Name of a part of rollouts, without suffix."""
    return f"{round_:06d}-{policy}-{part:05d}"


def write_rollouts(folder: epath.PathLike, name: str, groups: Iterable[Sequence[Mapping[str, Any]]]) -> epath.Path:
    """Writes one part of rollouts, a row group a prompt.

    Args:
        name: ``part_name(...)``; a part of this name is replaced.
        groups: The rows of each prompt, with the columns of ``ROLLOUT_SCHEMA`` but ``text_sha``.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, ROLLOUT_SCHEMA, compression="zstd") as writer:
        for rows in groups:
            rows = [{**row, "text_sha": text_sha(row["text"])} for row in rows]
            writer.write_table(pa.Table.from_pylist(rows, ROLLOUT_SCHEMA))
    return write_file(epath.Path(folder) / ROLLOUTS / f"{name}.parquet", sink.getvalue().to_pybytes())


def write_scores(folder: epath.PathLike, judge: str, name: str, rows: Sequence[Mapping[str, Any]]) -> epath.Path:
    """Writes one part of scores; ``name`` is that of the rollouts' part and the try, as in ``scores_name``."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), SCORE_SCHEMA), sink, compression="zstd")
    return write_file(epath.Path(folder) / SCORES / judge / f"{name}.parquet", sink.getvalue().to_pybytes())


def scores_name(rollouts: str, tries: int) -> str:
    """Name of the part with the scores of a part of rollouts: the first, and further ones for what had failed."""
    return f"{rollouts}-{tries}"


class Part:
    """A complete Parquet file.

    Raises:
        ExtraError: it is no ordinary file.
    """

    def __init__(self, path: epath.Path):
        self.path, self.name = path, path.name.removesuffix(".parquet")
        with ordinary_file(path).open("rb") as file:
            self.groups = pq.ParquetFile(file).num_row_groups

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows as dicts.

        Args:
            columns: Only these; the others are not read from the disk.

        Raises:
            ExtraError: a column is missing.
        """
        with self.path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            if missing := [name for name in columns or () if name not in parquet.schema_arrow.names]:
                raise ExtraError(
                    f"{self.path}: no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}"
                )
            chosen = range(parquet.num_row_groups) if groups is None else groups
            try:
                table = parquet.read_row_groups(list(chosen), columns and list(columns))
                return table.cast(pa.schema([(c.name, _TYPES.get(c.name, c.type)) for c in table.schema])).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise ExtraError(f"{self.path}: cannot be read ({error}); write it again, or remove it") from error

    def by_group(self, columns: Sequence[str]) -> list[list[dict[str, Any]]]:
        """The rows of each row group."""
        with self.path.open("rb") as file:
            metadata = pq.ParquetFile(file).metadata
            sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        rows = iter(self.read(columns))
        return [list(itertools.islice(rows, size)) for size in sizes]


def parts(folder: epath.PathLike, kind: str, prefix: str = "", but: Container[str] = ()) -> list[Part]:
    """The complete parts in ``folder/kind``, by name; incomplete ones are skipped with a warning.

    Args:
        kind: ``rollouts``, or ``scores/<judge>``.
    """
    complete, incomplete = [], []
    for path in sorted((epath.Path(folder) / kind).glob(f"{prefix}*.parquet")):
        if path.name.startswith(".") or path.name.removesuffix(".parquet") in but:
            continue
        try:
            complete.append(Part(path))
        except pa.ArrowInvalid:
            incomplete.append(path.name)
    if incomplete:
        _logger.warning("%s: skipped %d incomplete files: %s", folder, len(incomplete), ", ".join(incomplete[:5]))
    return complete


def rollout_parts(folder: epath.PathLike, prefix: str = "") -> list[Part]:
    """The parts of rollouts in a store whose names begin with ``prefix``.

    Raises:
        ExtraError: there are none.
    """
    if rollouts := parts(folder, ROLLOUTS, prefix):
        return rollouts
    raise ExtraError(f"{folder}: no rollouts in it; `extra-jax rollout CONFIG.yaml out={folder}` writes some")


def judges(folder: epath.PathLike) -> dict[str, dict[str, Any]]:
    """What is known of each judge that has scored something in this store, by its id (the folder's name).

    A folder without ``judge.json`` was written by somebody else and has an empty description.
    """
    cards: dict[str, dict[str, Any]] = {}
    root = epath.Path(folder) / SCORES
    for path in sorted(root.iterdir()) if root.exists() else ():
        if path.is_dir():
            card = path / JUDGE_FILE
            cards[path.name] = read_json_object(card) if card.exists() else {}
    return cards


def describe_judge(folder: epath.PathLike, judge: str, card: Mapping[str, Any]) -> None:
    """Writes ``judge.json``."""
    path = epath.Path(folder) / SCORES / judge / JUDGE_FILE
    write_file(path, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def settle(folder: epath.PathLike, name: str, facts: Mapping[str, Any]) -> None:
    """Writes down once what everything in a store has in common.

    Raises:
        ExtraError: it says something else already; the differing keys are listed.
    """
    path = epath.Path(folder) / name
    if not path.exists():
        write_file(path, json.dumps(facts, indent=2) + "\n")
        return
    before, now = read_json_object(path), json.loads(json.dumps(facts))
    if differing := [
        f"{k}: {before.get(k)} -> {now.get(k)}" for k in sorted(before | now) if before.get(k) != now.get(k)
    ]:
        lines = "\n  ".join(differing)
        raise ExtraError(f"{path}: the store was made with other settings:\n  {lines}\nUse them, or another folder")


def score_rows(folder: epath.PathLike, judge: str, prefix: str = "") -> Iterator[dict[str, Any]]:
    """The rows of one judge, with the columns ``SCORE_KEYS``, from the parts whose names begin with ``prefix``."""
    for part in parts(folder, f"{SCORES}/{judge}", prefix):
        yield from part.read(SCORE_KEYS)
