"""Names of functions that the configuration chooses: those that are registered, and those in a user's own file."""

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from extra_jax.errors import ExtraError

Function = TypeVar("Function", bound=Callable[..., object])


class Registry(Generic[Function]):
    """What a door knows by name. Called on a function, it registers it: a decorator.

    Args:
        key: of the configuration that chooses one; it stands in errors.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.functions: dict[str, Function] = {}

    def __call__(self, function: Function) -> Function:
        """Registers ``function`` under its name and returns it.

        Raises:
            ExtraError: another function has that name already.
        """
        name = function.__name__
        known = self.functions.get(name)
        same_place = known is not None and (known.__module__, known.__qualname__) == (
            function.__module__,
            function.__qualname__,  # a cell of a notebook that runs again defines it anew
        )
        if known is not None and not same_place:
            raise ExtraError(f"{self.key}: {name!r} is the name of a function in {known.__module__}; choose another")
        self.functions[name] = function
        return function

    def find(self, spec: str) -> Function:
        """The function of a name, or of ``path/to/file.py:name`` (relative to the working directory).

        Raises:
            ExtraError: there is none; the nearest name and all of them are named. What the file itself raises passes.
        """
        path, colon, name = spec.rpartition(":")
        if colon and path.endswith(".py"):
            return self._load(Path(path), name)
        if spec in self.functions:
            return self.functions[spec]
        raise ExtraError(
            f"{self.key}: no function {spec!r}{nearest(spec, self.functions)}. There are {', '.join(self.functions)}; "
            "one of your own is path/to/file.py:name"
        )

    def _load(self, path: Path, name: str) -> Function:
        if not path.is_file():
            raise ExtraError(f"{self.key}: {path}: no such file (from {Path.cwd()})")
        spec = importlib.util.spec_from_file_location(str(path.resolve()), path)
        assert spec is not None  # for a name that ends in .py there always is one
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        functions = {own: value for own, value in vars(module).items() if inspect.isfunction(value)}
        if name not in functions:
            raise ExtraError(f"{self.key}: {path} has no function {name!r}{nearest(name, functions)}")
        return functions[name]


def nearest(name: str, names: dict[str, Function] | list[str]) -> str:
    """`` (did you mean ...?)``, or nothing where no name is near."""
    match = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
