"""YAML and ``key.sub=value`` overrides to a validated tree, and errors that name the key and the nearest one."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from extra_jax.config.foreign import TRL, VERL
from extra_jax.config.tree import Config
from extra_jax.config.yaml_tree import dump_yaml, parse_yaml, unusable_values
from extra_jax.errors import ExtraError, redact
from extra_jax.files import read_text, write_file

Model = TypeVar("Model", bound=BaseModel)

_MOST_LINES = 20  # of an error


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies ``key.sub=value`` overrides.

    Raises:
        ExtraError: the file cannot be read or is not YAML, a key is unknown (the nearest one is named), or a
            value has the wrong type, is out of range, or breaks a rule between fields.
    """
    tree = parse_yaml(read_text(path), str(path)) or {}
    if not isinstance(tree, dict):
        raise ExtraError(f"{path}: the top level must be a mapping of sections, not {type(tree).__name__}")
    for override in overrides:
        apply_override(tree, override)
    return validated(Config, tree, str(path))


def config_from_dict(tree: Mapping[str, Any], origin: str = "config") -> Config:
    """Validates a nested mapping; ``origin`` names it in errors."""
    return validated(Config, dict(tree), origin)


def section_from_overrides(section: type[Model], overrides: Sequence[str], origin: str) -> Model:
    """One section alone from ``key=value`` texts, for verbs without a configuration file.

    Raises:
        ExtraError: as ``load_config``; ``origin`` stands where the file's name would.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        apply_override(tree, override)
    return validated(section, tree, origin)


def save_config(config: Config, path: str | Path) -> None:
    """Writes the resolved configuration, for its owner alone if it holds a secret; ``load_config`` reads it back."""
    text = dump_yaml(config.model_dump(mode="json"))
    write_file(path, text, private=redact(text) != text)


def config_differences(old: Config, new: Config, ignore: Iterable[str] = ()) -> list[str]:
    """Dotted keys whose values differ, as ``key: old -> new`` lines; keys under ``ignore`` are left out."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    ignored = tuple(ignore)
    return [
        f"{key}: {json.dumps(before.get(key))} -> {json.dumps(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not any(key == i or key.startswith(i + ".") for i in ignored)
    ]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Writes ``key.sub=value`` into a tree; the value is YAML.

    Raises:
        ExtraError: the text is of another form, or a part of the key is a value and no section.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ExtraError(f"override {_short(override)} is not of the form key.sub=value")
    *sections, leaf = key.split(".")
    node = tree
    for section in sections:
        child = node.get(section)
        if child is None:
            child = node[section] = {}
        elif not isinstance(child, dict):
            raise ExtraError(f"override {_short(override)}: {section!r} is a value, not a section")
        node = child
    node[leaf] = parse_yaml(text, f"override {_short(override)}")


def validated(model: type[Model], tree: Mapping[str, Any], origin: str) -> Model:
    """``tree`` as a section.

    Raises:
        ExtraError: as ``load_config``; ``origin`` stands where the file's name would.
    """
    try:
        lines = unusable_values(tree)
    except ExtraError as error:
        raise ExtraError(f"{origin}: {error}") from error
    try:
        if not lines:
            return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
    raise ExtraError(f"{origin}:\n  " + "\n  ".join(lines[:_MOST_LINES]))


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(model, location)}"
    given = (
        ""
        if isinstance(problem["input"], dict) or problem["type"] == "secret"
        else f" (got {_short(problem['input'])})"
    )
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}{given}"


def _short(value: Any) -> str:
    text = redact(repr(value))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _nearest(model: type[BaseModel], location: list[str]) -> str:
    """Names the key that TRL's or verl's is here, or the nearest of the same section, or else of the whole tree."""
    known, leaf = _known_keys(model), location[-1]
    elsewhere = {**VERL, **TRL}.get(leaf)
    if elsewhere in known and leaf not in {key.rpartition(".")[2] for key in known}:
        return f"; this is {elsewhere!r} here, see docs/howto/from-trl-verl.md"
    siblings = [k for k in known if k.rpartition(".")[0] == ".".join(location[:-1])]
    for candidates, cutoff in ((known, 1.0), (siblings, 0.6), (known, 0.75)):
        by_leaf = {k.rpartition(".")[2]: k for k in reversed(candidates)}  # of equal names the first section wins
        if match := difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=cutoff):
            return f"; did you mean {by_leaf[match[0]]!r}?"
    return f"; known keys here: {', '.join(k.rpartition('.')[2] for k in siblings)}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                keys += _known_keys(candidate, f"{prefix}{name}.")
    return keys
