"""One row of a data set → one `Problem`, or a refusal that names file, row, key and remedy.

Two layouts are read unchanged, told apart row by row:

- *plain*: our JSONL ``{id | uid, problem | prompt | question, answer, solution?, source?, meta?}``, and TRL's columns
  ``prompt`` (text or chat) with ``answer`` and/or ``solution``;
- *verl*: ``{data_source, prompt (chat), ability, reward_model.ground_truth, extra_info}``, recognised by its
  ``reward_model`` column.

A worked solution in place of the answer is read as it is published: its answer is its last box (MATH, NuminaMath), or
what follows its last ``####`` (GSM8K). Columns that have no place in a `Problem` are kept in its ``meta``.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from extra_jax.answers.extract import gold_answer
from extra_jax.data.problem import Message, Problem, Prompt
from extra_jax.errors import ExtraError

COLUMNS = {
    "uid": ("uid", "id"),
    "prompt": ("problem", "prompt"),
    "answer": ("answer",),
    "solution": ("solution",),
    "source": ("source",),
    "meta": ("meta",),
}
"""What a `Problem` is made of → the column names that are looked for in a plain row."""

_GROUND_TRUTH = "Give the ground truth as text, or remove the row"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Row:
    """A raw row with the place it came from.

    Attributes:
        path: The file, or ``hub:...``, as the user wrote it.
        number: 1-based row number; for JSONL the line number.
        values: Column → value; ``None`` counts as absent, since Parquet has no other way to say so.
    """

    path: str
    number: int
    values: Mapping[str, Any]

    def refuse(self, key: str, fault: str, remedy: str) -> "RowError":
        """The error for this row, to be raised by the caller."""
        return RowError(self, key, fault, remedy)

    def get(self, key: str) -> Any:
        return self.values.get(key)


class RowError(ExtraError):
    """A row that is no problem: what is wrong (``fault``) under which ``key``."""

    def __init__(self, row: Row, key: str, fault: str, remedy: str):
        super().__init__(f"{row.path}, row {row.number}, key {key!r}: {fault}. {remedy}")
        self.key, self.fault = key, fault


def to_problem(row: Row, stem: str, columns: Mapping[str, str] | None = None) -> Problem:
    """The problem in a row; its prompt is as the file has it, without template or system message.

    Args:
        stem: Name of the data set, for the uid (``"stem/17"``) and the source of rows that carry none.
        columns: Other names for the columns of a plain row, e.g. ``{"prompt": "question"}``; keys are those
            of `COLUMNS`.

    Raises:
        ExtraError: Missing, empty or wrongly typed values.
    """
    if row.get("reward_model") is None:
        return _plain(row, stem, columns or {})
    if columns:
        raise row.refuse("reward_model", "columns are renamed, but the row has verl's layout", "Drop the renaming.")
    return _verl(row, stem)


def _plain(row: Row, stem: str, columns: Mapping[str, str]) -> Problem:
    names = {part: (columns[part],) if part in columns else aliases for part, aliases in COLUMNS.items()}
    present = {part: [name for name in aliases if row.get(name) is not None] for part, aliases in names.items()}
    for part, spelled in present.items():
        if len(spelled) > 1:
            remedy = f"Keep one, or choose with columns={{{part!r}: {spelled[0]!r}}}."
            raise row.refuse(spelled[1], f"the row has {' and '.join(map(repr, spelled))}", remedy)
    if not present["prompt"] and "prompt" not in columns and row.get("question") is not None:
        present["prompt"] = ["question"]  # of GSM8K and OlympiadBench; beside a prompt it is one more column
    key = {part: spelled[0] if spelled else names[part][0] for part, spelled in present.items()}
    if not present["prompt"]:
        wanted = " or ".join(map(repr, names["prompt"]))
        there = ", ".join(row.values) or "none"
        remedy = f"Give {wanted}, or name its column with data.columns={{prompt: ...}}; there are {there}."
        raise row.refuse(key["prompt"], "missing", remedy)
    solution = _optional_text(row, key["solution"])
    # TRL's verifiable sets name the ground truth `solution`; elsewhere it has to show which part of it is the answer.
    if not present["answer"] and solution and (key["prompt"] == "prompt" or gold_answer(solution) != solution):
        key["answer"] = key["solution"]
    used = {name for spelled in present.values() for name in spelled}
    answer = _answer(row, key["answer"], row.get(key["answer"]))
    return Problem(
        uid=_uid(row, key["uid"]) or f"{stem}/{row.number}",
        prompt=read_prompt(row, key["prompt"]),
        answer=gold_answer(answer),
        solution=answer if solution is None and "####" in answer else solution,
        source=_optional_text(row, key["source"]) or stem,
        meta=_meta(row, key["meta"], used),
    )


def _verl(row: Row, stem: str) -> Problem:
    reward_model, extra = row.get("reward_model"), row.get("extra_info") or {}
    for key, value in (("reward_model", reward_model), ("extra_info", extra)):
        if not isinstance(value, Mapping):
            raise row.refuse(key, f"{_kind(value)} instead of a struct", "Write verl's nested columns.")
    if row.get("prompt") is None:
        raise row.refuse("prompt", "missing", "Give verl's chat list [{'role': ..., 'content': ...}].")
    source = _optional_text(row, "data_source")
    if source is None:
        raise row.refuse("data_source", "missing", "Name the data set, e.g. 'openai/gsm8k'.")
    answer = _answer(row, "reward_model.ground_truth", reward_model.get("ground_truth"))
    inner = replace(row, values=extra)
    # verl's recipes keep the worked answer under either name; the bare answer again is no solution.
    solution = _optional_text(inner, "solution") or _optional_text(inner, "answer")
    uid_parts = [source, _optional_text(inner, "split"), _uid(inner, "index")]
    uid = "/".join(part for part in uid_parts if part) if uid_parts[2] else f"{stem}/{row.number}"
    taken = ("data_source", "prompt", "reward_model", "extra_info")
    meta = {key: value for key, value in row.values.items() if key not in taken and value is not None}
    return Problem(
        uid=uid,
        prompt=read_prompt(row, "prompt"),
        answer=gold_answer(answer),
        solution=None if solution == answer else solution,
        source=source,
        meta=meta | {"reward_style": reward_model.get("style"), "extra_info": dict(extra)},
    )


def read_prompt(row: Row, key: str) -> Prompt:
    """The text or the chat in a column; refuses anything else."""
    value = row.get(key)
    if isinstance(value, str):
        if not value.strip():
            raise row.refuse(key, "empty", "Give the problem text, or remove the row.")
        return value
    remedy = "Give text, or a chat list [{'role': 'user', 'content': text}]."
    if not isinstance(value, list | tuple):
        raise row.refuse(key, f"{_kind(value)} instead of text or a chat list", remedy)
    if not value:
        raise row.refuse(key, "an empty chat", remedy)
    chat = tuple(_message(row, f"{key}[{i}]", message, remedy) for i, message in enumerate(value))
    if chat[-1]["role"] != "user":
        fault = f"the chat ends with the role {chat[-1]['role']!r}"
        raise row.refuse(key, fault, "End with the 'user' message that the model is to answer.")
    return chat


def _message(row: Row, key: str, message: Any, remedy: str) -> Message:
    if not isinstance(message, Mapping):
        raise row.refuse(key, f"{_kind(message)} instead of a message", remedy)
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise row.refuse(f"{key}.role", f"{role!r} is no known role", f"Use one of {', '.join(_ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        fault = "empty" if isinstance(content, str) else f"{_kind(content)} instead of text"
        raise row.refuse(f"{key}.content", fault, "Give the text of the message; images and parts are not supported.")
    # Parquet pads the messages of a column to one struct; absent fields arrive as None.
    unknown = [name for name, value in message.items() if name not in ("role", "content") and value is not None]
    if unknown:
        raise row.refuse(f"{key}.{unknown[0]}", "messages have a role and a content only", "Remove the field.")
    return {"role": role, "content": content}


def _answer(row: Row, key: str, value: Any) -> str:
    if value is None:
        raise row.refuse(key, "missing", f"{_GROUND_TRUTH}; `extra-jax data lint` lists all.")
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]  # as DeepScaleR and OlympiadBench are published
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        # A float has lost how it was written (18.0 for 18, 0.1 for 1/10), so it is not turned into text here.
        raise row.refuse(key, f"{_kind(value)} instead of text", "Write the ground truth as a string.")
    if not value.strip():
        raise row.refuse(key, "empty", f"{_GROUND_TRUTH}.")
    return value


def _uid(row: Row, key: str) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        fault = "empty" if isinstance(value, str) else f"{_kind(value)} instead of text"
        raise row.refuse(key, fault, "Give a unique identity as text or a whole number.")
    return value


def _optional_text(row: Row, key: str) -> str | None:
    """The text under ``key``; ``None`` where it is absent or blank, which data sets use alike."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise row.refuse(key, f"{_kind(value)} instead of text", "Write it as a string, or leave it out.")
    return value if value is not None and value.strip() else None


def _meta(row: Row, key: str, used: set[str]) -> dict[str, Any]:
    meta = row.get(key)
    if meta is not None and not isinstance(meta, Mapping):
        raise row.refuse(key, f"{_kind(meta)} instead of an object", "Write {...}, or leave it out.")
    further = {name: value for name, value in row.values.items() if name not in used and value is not None}
    clash = sorted(further.keys() & (meta or {}).keys())
    if clash:
        raise row.refuse(clash[0], f"the row has it as a column and in {key!r}", "Keep one of the two.")
    return {**further, **(meta or {})}


def _kind(value: Any) -> str:
    """How a wrong value is named to the user."""
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        type(None): "nothing",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def check_template(template: str) -> None:
    """Checks that ``{problem}`` is the one field of a prompt template, exactly once.

    Raises:
        ExtraError: Another field, no field, or a single brace.
    """
    remedy = "Write {problem} once, and double all other braces, as in \\boxed{{}}."
    try:
        parsed = [rest for _, *rest in string.Formatter().parse(template) if rest[0] is not None]
    except ValueError as error:
        raise ExtraError(f"prompt_template {template!r}: {error}. {remedy}") from error
    if parsed != [["problem", "", None]]:  # no format (of a width of gigabytes, say) and no conversion
        fields = ["".join(filter(None, field)) for field in parsed]
        raise ExtraError(f"prompt_template {template!r} has the fields {fields}. {remedy}")


def dress(problem: Problem, template: str | None, system: str | None) -> Problem:
    """The problem with its text put into a template and a system message before it.

    Args:
        problem: The problem; returned as it is when both others are ``None``.
        template: Text with ``{problem}``, for text prompts only; passed by `check_template`.
        system: System message; turns a text prompt into a chat.

    Raises:
        ExtraError: A template for a chat, or a second system message.
    """
    prompt = problem.prompt
    if template is not None:
        if not isinstance(prompt, str):
            raise ExtraError(f"problem {problem.uid!r} is a chat; prompt_template works on text. Drop the template.")
        prompt = template.format(problem=prompt)
    if system is not None:
        chat = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        if any(message["role"] == "system" for message in chat):
            raise ExtraError(f"problem {problem.uid!r} has a system message already; drop the configured one.")
        prompt = ({"role": "system", "content": system}, *chat)
    return replace(problem, prompt=prompt)
