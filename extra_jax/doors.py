"""How a name becomes an object: what we ship and what a user brings come in through the same door.

Each door (rewards, advantages, exploration) has one ``Registry``. In YAML a name is one that is registered, or
``path/file.py:name``, or ``package.module:name``; in Python it may be the object itself.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from extra_jax.errors import ExtraError

T = TypeVar("T")
_OURS = "extra_jax."


class Registry(Generic[T]):
    """The names of one door.

    Args:
        kind: what the objects are, for messages, e.g. ``"advantage estimator"``.
        key: where a configuration names them, e.g. ``"train.advantage"``.
    """

    def __init__(self, kind: str, key: str):
        self.kind, self.key = kind, key
        self._entries: dict[str, T] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        return sorted(self._entries)

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: makes the object known by ``name``. A cell of a notebook may run again, but ours stay."""

        def add(entry: T) -> T:
            known = getattr(self._entries.get(name), "__module__", "")
            if known.startswith(_OURS) and not getattr(entry, "__module__", "").startswith(_OURS):
                raise ExtraError(f"{self.key}: the name {name!r} is taken by the package; give yours another one")
            self._entries[name] = entry
            return entry

        return add

    def get(self, spec: str) -> T:
        """The object that ``spec`` names.

        Raises:
            ExtraError: nothing has this name, or the file does not import; with the nearest name and all that exist.
        """
        if spec in self._entries:
            return self._entries[spec]
        if ":" in spec:
            return load_object(spec, self.key)
        hint = did_you_mean(spec, self._entries)
        raise ExtraError(
            f"{self.key}: no {self.kind} is called {spec!r}{f'; {hint}' if hint else '.'} There are "
            f"{', '.join(self.names)}, and your own as path/file.py:name"
        )


def load_object(spec: str, key: str) -> Any:
    """The object ``name`` of ``path/file.py:name`` or ``package.module:name``, which stands under ``key``.

    Raises:
        ExtraError: the file is not there or fails to import, or has no such name.
    """
    origin, _, name = spec.rpartition(":")
    module = _load_file(Path(origin), key) if origin.endswith(".py") else _import(origin, key)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        hint = did_you_mean(name, public)
        raise ExtraError(f"{key}: {origin} has no {name!r}{hint and f'; {hint}'}")
    return getattr(module, name)


def _load_file(path: Path, key: str) -> ModuleType:
    """A file is imported once, under a name made of its place; beside an ``__init__.py`` it may import its neighbours
    as ``from .neighbour import name``."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ExtraError(f"{key}: there is no file {path}")
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    package = path.parent / "__init__.py"
    if package.is_file() and path != package:
        name = f"{_load_file(package, key).__name__}.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    description = importlib.util.spec_from_file_location(name, path)
    if description is None or description.loader is None:
        raise ExtraError(f"{key}: {path} is no Python file")
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module  # before it runs, so that its dataclasses find their module
    try:
        description.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ExtraError(f"{key}: {path} does not import: {type(error).__name__}: {error}") from error
    return module


def _import(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExtraError(f"{key}: {name!r} does not import: {error}") from error


def call_with(function: Callable[..., T], arguments: Mapping[str, Any], where: str) -> T:
    """Calls ``function`` with settings that somebody wrote down under the key ``where``.

    Raises:
        ExtraError: a name that the function does not take, or one that is missing; names the nearest.
    """
    parameters = inspect.signature(function).parameters
    if not takes_any(parameters):
        refuse_unknown(arguments, parameters, where)
        required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
        if missing := [name for name in required if name not in arguments]:
            raise ExtraError(f"{where}: {', '.join(missing)} is missing")
    return function(**arguments)


def takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function takes keywords of any name."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses settings under the key ``where`` that nobody takes.

    Raises:
        ExtraError: names the first of them, and the nearest that there is, or all.
    """
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"it takes {', '.join(known) or 'none'}"
            raise ExtraError(f"{where}.{name}: unknown setting; {hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for a typo, and nothing where no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""
