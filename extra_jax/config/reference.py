"""Every setting with its meaning, its default and its range, read from the tree itself."""

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from extra_jax.config.explore import PRESETS
from extra_jax.config.tree import Config

PRESET_WORDS = {
    "grpo": "plain GRPO: explores nothing, and costs nothing",
    "corrected": "novelty bonus and prefix regeneration with the settings that we recommend",
    "release_faithful": "both as the authors' released code computes them, its choices included",
}
_SIGNS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


@dataclass(frozen=True)
class Setting:
    """One key of the configuration.

    Attributes:
        key: dotted.
        kind: what a value may be, e.g. ``whole number or null``.
        default: as YAML; ``required`` where there is none.
        range: e.g. ``>= 1, <= 4096``; empty where every value of the kind is allowed.
        meaning: one or a few sentences.
    """

    key: str
    kind: str
    default: str
    range: str
    meaning: str


def all_settings(model: type[BaseModel] = Config, prefix: str = "") -> list[Setting]:
    """Every setting in the order of the tree. ``eval.data`` and the entries of ``eval.benchmarks`` are sections like
    ``data``, and are listed as one."""
    return list(_walk(model, prefix, {id(None)}))


def _walk(model: type[BaseModel], prefix: str, seen: set[int]) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None and id(section) not in seen:
            seen.add(id(section))
            yield from _walk(section, f"{prefix}{name}.", seen)
            continue
        yield Setting(
            prefix + name,
            _kind(field.annotation),
            _default(field),
            ", ".join(dict.fromkeys([*_bounds(field.metadata), *_bounds_within(field.annotation)])),
            field.description or "",
        )


def _section(annotation: Any) -> type[BaseModel] | None:
    for one in (annotation, *(get_args(annotation) if isinstance(annotation, types.UnionType) else ())):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (types.UnionType, Union):
        return " or ".join(dict.fromkeys(_kind(one) for one in arguments))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if origin is dict or annotation is dict:
        return "table"
    names = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text", types.NoneType: "`null`"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"section like `{'data' if annotation.__name__ == 'DataConfig' else annotation.__name__}`"
    return names.get(annotation, "any value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for one in metadata:
        if type(one) in _SIGNS:
            sign, name = _SIGNS[type(one)]
            yield f"{sign} {getattr(one, name):,}"
        elif isinstance(one, FieldInfo):
            yield from _bounds(one.metadata)
        elif isinstance(one, MinLen):
            yield f"at least {one.min_length} entry"


def _bounds_within(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Annotated:
        yield from _bounds(list(get_args(annotation)[1:]))
    for one in get_args(annotation):
        if get_origin(one) is not None:
            yield from _bounds_within(one)


def presets_table() -> list[list[str]]:
    """Name and words of each preset of exploration."""
    assert PRESET_WORDS.keys() == PRESETS.keys()
    return [[name, words] for name, words in PRESET_WORDS.items()]
