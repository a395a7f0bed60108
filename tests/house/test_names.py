"""Every file, verb, option and setting that the documentation or a docstring names exists."""

import argparse
import ast
import contextlib
import re
import shlex
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from extra_jax.cli import VERBS, build_parser
from extra_jax.config import Config
from house.imports import ROOT, modules

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SOURCES = [*modules().values(), *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

_FOLDERS = "configs|tests|extra_jax|benchmarks|scripts|docs"
_PATH = re.compile(rf"(?<![\w/.-])(?:\.\./)?((?:{_FOLDERS})/[\w./*-]*\w)")
_TICKED = re.compile(r"``([^`\n]+)``|`([^`\n]+)`")
_KEY = re.compile(rf"(?<![\w/.-])((?:{'|'.join(Config.model_fields)})\.[a-z_][a-z_0-9.]*)(?![\w/(-])")
_FILES = (".py", ".yaml", ".md", ".json", ".jsonl", ".html", ".sh", ".toml", ".safetensors", ".lock")
_NOT_OURS = re.compile(r"method/\w+\.md|method notes|\bdesign, decision|\(decision \d|\b[abc]\.\d{1,2}(?:-\d)?\b(?!\()")


def docstrings(path: Path) -> str:
    """All docstrings of a file, those of attributes included, and its comments."""
    text = path.read_text(encoding="utf-8")
    strings = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return "\n".join([*strings, *re.findall(r"#.*", text)])


def text_of_every_page() -> Iterator[tuple[str, str]]:
    """Name and text of the pages and of the docstrings of the package."""
    for page in PAGES:
        yield str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
    for path in modules().values():
        yield str(path.relative_to(ROOT)), docstrings(path)


PAGES_AND_DOCSTRINGS = list(text_of_every_page())


def commands(text: str) -> Iterator[list[str]]:
    """The words of each ``extra-jax VERB ...`` in a text, in a code block or in backticks."""
    joined = text.replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", joined, re.DOTALL | re.MULTILINE))
    ticked = [one or two for one, two in _TICKED.findall(re.sub(r"^```.*?^```", "", joined, flags=re.DOTALL | re.M))]
    lines = [*blocks.splitlines(), *ticked]
    for number, line in enumerate(lines):
        if match := re.match(r"\s*(?:\$ )?extra-jax (.*)", line):
            yield words("\n".join([match[1], *lines[number + 1 :]]).replace("...", ""))


def words(text: str) -> list[str]:
    """The words of the first command of a text; a quotation may go on in the next line."""
    lines = text.splitlines()
    for end in range(1, len(lines) + 1):
        with contextlib.suppress(ValueError):  # no closing quotation yet
            return shlex.split("\n".join(lines[:end]), comments=True)
    raise ValueError(f"a quotation without an end: {lines[0]}")


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a verb, those of its parts included."""
    own = set(parser._option_string_actions)
    parts = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return own.union(*(options(part) for action in parts for part in action.choices.values()))


def is_setting(key: str) -> bool:
    """Whether a dotted key is a section, a setting or lies in a table with free keys."""
    level: Any = Config
    for name in key.rstrip(".").split("."):
        sections = [one for one in alternatives(level) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not sections:
            return any(get_origin(one) is dict or one is dict for one in alternatives(level))
        fields = {known: field for section in sections for known, field in section.model_fields.items()}
        if name not in fields:
            return False
        level = fields[name].annotation
    return True


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if isinstance(annotation, types.UnionType) or get_origin(annotation) not in (None, dict, tuple, list):
        return [inner for one in get_args(annotation) for inner in alternatives(one)] or [annotation]
    return [annotation]


@pytest.mark.parametrize(("name", "text"), PAGES_AND_DOCSTRINGS, ids=[name for name, _ in PAGES_AND_DOCSTRINGS])
def test_what_is_named_exists(name: str, text: str) -> None:
    missing = {path for path in _PATH.findall(text) if not any(ROOT.glob(path))}
    ticked = [one or two for one, two in _TICKED.findall(text)]
    keys = {key for part in ticked for key in _KEY.findall(part) if not key.endswith((*_FILES, "_"))}
    missing |= {key for key in keys if not is_setting(key) and not is_module(key)}
    verbs = {verb.name: verb for verb in VERBS}
    parsers = build_parser()[1]
    for words in commands(text):
        verb = words[0] if words else ""
        if verb not in verbs:
            missing |= {verb} if re.fullmatch(r"[a-z][a-z-]*", verb) else set()
            continue
        missing |= {word for word in words if word.startswith("--") and word not in options(parsers[verb])}
        given = [word for word in words[1:] if re.match(r"[a-z_.]+=", word) and word != "key=value"]
        if not verbs[verb].takes_config:  # its words are the settings of one section
            given = [f"{verb}.{word}" for word in given]
        missing |= {word for word in verbs[verb].overrides(given) if not is_setting(word.partition("=")[0])}
    assert not missing, f"{name} names what does not exist: {sorted(missing)}"


def is_module(dotted: str) -> bool:
    """``model.qwen3``, or a name inside of it, without the package in front."""
    parts = dotted.rstrip(".").split(".")
    return any(f"extra_jax.{'.'.join(parts[:end])}" in modules() for end in range(2, len(parts) + 1))


def test_references_resolve_inside_the_repository() -> None:
    wrong = {}
    for path in SOURCES:
        where = str(path.relative_to(ROOT))
        if where.startswith("tests/house"):
            continue
        if references := _NOT_OURS.findall(docstrings(path)):
            wrong[where] = references
    assert not wrong


@pytest.mark.parametrize(
    ("key", "exists"),
    [("train.beta", True), ("train.betta", False), ("eval.data.source", True), ("eval.benchmarks.mine", True),
     ("explore.bonus.mine", True), ("train.beta.x", False), ("data", True)],
)  # fmt: skip
def test_a_setting_is_recognised(key: str, exists: bool) -> None:
    assert is_setting(key) == exists
