"""Exploratory reinforcement learning of reasoning language models on TPU.

    import extra_jax as ex

    policy = ex.load("tiny-base", model={"dtype": "float32"})
    out = policy.generate(["3 4 6 = 24\\n"], n=4)                   # .texts .tokens .logprobs .entropies
    run = ex.train("configs/quickstart.yaml", rewards=["countdown", brevity], explore=[ex.explore.novelty()])
    run.history["reward"], run.policy, run.export("out")

Nothing heavy is imported until something needs it: this module imports no jax. ``docs/howto/python.md`` is the tour.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extra_jax import explore
    from extra_jax.api import Completions, History, Policy, TrainedRun, evaluate, load, sft, train, train_exprl
    from extra_jax.config import Config
    from extra_jax.data.problem import Problem
    from extra_jax.errors import ExtraError
    from extra_jax.exploration import PromptRequest

_PLACES = {
    "Completions": "api",
    "Config": "config",
    "ExtraError": "errors",
    "History": "api",
    "Policy": "api",
    "Problem": "data.problem",
    "PromptRequest": "exploration",
    "TrainedRun": "api",
    "evaluate": "api",
    "load": "api",
    "sft": "api",
    "train": "api",
    "train_exprl": "api",
}

__all__ = [
    "Completions",
    "Config",
    "ExtraError",
    "History",
    "Policy",
    "Problem",
    "PromptRequest",
    "TrainedRun",
    "evaluate",
    "explore",
    "load",
    "sft",
    "train",
    "train_exprl",
]


def __getattr__(name: str) -> Any:
    if name == "explore":
        return importlib.import_module("extra_jax.explore")
    if name in _PLACES:
        return getattr(importlib.import_module(f"extra_jax.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'extra_jax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """``ex.train`` is the function, also after the file ``train.py`` was imported, which would take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
