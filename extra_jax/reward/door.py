"""The reward door: how a function of a user, or one of ours, becomes part of the reward (``docs/howto/own-reward.md``).

A reward function has TRL's signature, ``f(prompts, completions, **columns) -> list[float | None]``, plain or ``async``.
It gets the columns that it declares, or all of them with ``**kwargs``. A grader (``verdict.Grader``) is a reward
function that also says ``correct``; a class of one can be named wherever a function can.
"""

import asyncio
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.doors import Registry, did_you_mean, refuse_unknown, takes_any
from extra_jax.errors import ExtraError
from extra_jax.reward.calling import Returned, checked
from extra_jax.reward.workers import Limits, Outcome, WorkerPool

KEY = "reward.functions"
TIMEOUT = 60.0
"""Seconds that one call of a function may take, where nothing else is said."""

_MEMORY_MB = 8192
_STANDARD = ("prompts", "completions", "completion_ids", "answer", "solution", "source", "uid", "max_completion_length")

Reward = Callable[..., Any]
TokenIds = Sequence[int] | np.ndarray
REWARDS: Registry[Reward] = Registry("reward function", KEY)


def reward(function: Reward | None = None, *, name: str | None = None, in_process: bool = False) -> Any:
    """Decorator that names a reward function; ``@reward`` and ``@reward(name="brevity")`` both work.

    Args:
        function: What is decorated; it stays as it is.
        name: What configurations and metrics call it; default: its own name.
        in_process: Call it in the trainer's process, without limits on memory and time. ``async`` functions and
            closures always run there, with a time limit on the former.
    """

    def declare(function: Reward) -> Reward:
        function.reward_name = name or function.__name__  # type: ignore[attr-defined]
        function.in_process = in_process  # type: ignore[attr-defined]
        register(function)
        return function

    return declare if function is None else declare(function)


def register(function: Reward) -> str:
    """Makes a function known by its name, which is returned; a later one of the same name takes its place.

    Raises:
        ExtraError: the name is that of one of ours.
    """
    name = reward_name(function)
    REWARDS.register(name)(function)
    return name


def reward_name(function: Reward) -> str:
    """What configurations and metrics call a function."""
    return str(getattr(function, "reward_name", None) or getattr(function, "__name__", type(function).__name__))


def find(spec: str) -> Reward:
    """The function or grader class that ``spec`` names.

    Args:
        spec: A registered name, ``path/file.py:name`` or ``module:name``.

    Raises:
        ExtraError: there is none; says what there is, and the nearest name.
    """
    function = REWARDS.get(spec)
    if not callable(function):
        raise ExtraError(f"{KEY}: {spec} is a {type(function).__name__}, not a function or a grader")
    return function


def completion_text(completion: Any) -> str:
    """A completion as text: itself, or what the assistant says where the prompt was a chat."""
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)


@dataclass(frozen=True)
class Batch:
    """What functions are called about: ``R`` completions in order."""

    problems: Sequence[Problem]  # [R]
    completions: Sequence[str]  # [R] texts
    completion_ids: Sequence[TokenIds]  # [R] token ids of these texts
    max_completion_length: int  # tokens that a completion may have

    def column(self, name: str) -> Any:
        """One keyword of a reward function; ``None`` for each problem that lacks it."""
        match name:
            case "prompts":
                return [p.prompt if isinstance(p.prompt, str) else [dict(m) for m in p.prompt] for p in self.problems]
            case "completions":
                chats = [not isinstance(problem.prompt, str) for problem in self.problems]
                return [
                    [{"role": "assistant", "content": text}] if chat else text
                    for chat, text in zip(chats, self.completions, strict=True)
                ]
            case "completion_ids":
                return [[int(token) for token in ids] for ids in self.completion_ids]
            case "max_completion_length":
                return self.max_completion_length
            case "answer" | "solution" | "source" | "uid":
                return [getattr(problem, name) for problem in self.problems]
        return [problem.meta.get(name) for problem in self.problems]


class FunctionReward:
    """A reward function with its settings, and the process that it runs in.

    Args:
        name: In metrics and records.
        function: What is called.
        spec: How a worker finds it; ``None``: it runs in this process.
        args: Further keywords.
        timeout: Seconds that one call may take; not for a plain function in this process.
    """

    def __init__(
        self, name: str, function: Reward, spec: str | None, args: Mapping[str, Any], timeout: float = TIMEOUT
    ) -> None:
        self.name, self.function, self.args = name, function, dict(args)
        self.asynchronous = inspect.iscoroutinefunction(function)
        self.spec = None if self.asynchronous else spec
        self.timeout = timeout
        self.parameters = inspect.signature(function).parameters
        self.takes_all = takes_any(self.parameters)
        self._pool: WorkerPool | None = None
        if not self.takes_all:
            refuse_unknown(args, self.parameters, f"{KEY}: args of {name}")

    @property
    def blocks(self) -> bool:
        """Whether ``start`` returns only when the function has."""
        return self.spec is None and not self.asynchronous

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuses a function with a parameter that nothing fills.

        Raises:
            ExtraError: names the parameter, the nearest column and all there are.
        """
        columns = [*_STANDARD, *dict.fromkeys(key for problem in problems for key in problem.meta)]
        for name, parameter in self.parameters.items():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if needed and name not in columns and name not in self.args:
                hint = did_you_mean(name, columns)
                raise ExtraError(
                    f"{KEY}: {self.name} takes {name!r}, which the problems do not have{f'; {hint}' if hint else '.'} "
                    f"They have {', '.join(columns)}; or give it as args: {{{name}: ...}}"
                )

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """The keywords of a call: the declared columns, or all for a function with ``**kwargs``."""
        names = {name for name in self.parameters if name in _STANDARD}
        if self.takes_all:
            names |= set(_STANDARD) - {"max_completion_length"}
        for problem in batch.problems:
            names |= {key for key in problem.meta if self.takes_all or key in self.parameters}
        names |= {n for n, p in self.parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
        return {name: batch.column(name) for name in sorted(names - self.args.keys())} | self.args

    def start(self, batch: Batch) -> "Future[Outcome]":
        """Calls the function about all completions of ``batch``; the future ends in what became of it."""
        arguments, count = self.arguments(batch), len(batch.completions)
        if self.spec is not None:
            return self._submit(arguments, count)
        future: Future[Outcome] = Future()
        if self.asynchronous:
            Thread(target=lambda: future.set_result(self._awaited(arguments, count)), daemon=True).start()
        else:
            future.set_result(_outcome(lambda: checked(self.function(**arguments), count)))
        return future

    def close(self) -> None:
        """Stops the worker."""
        if self._pool is not None:
            self._pool.close()

    def _submit(self, arguments: dict[str, Any], count: int) -> "Future[Outcome]":
        assert self.spec is not None
        if self._pool is None:
            limits = Limits(self.timeout, max(1, int(self.timeout)), _MEMORY_MB)
            calling = "extra_jax.reward.calling"
            warm_up = (f"{calling}:loaded", self.spec)
            self._pool = WorkerPool(f"{calling}:call_task", workers=1, limits=limits, warm_up=warm_up)
        try:
            return self._pool.submit(self.spec, arguments, count)
        except TypeError as error:
            raise ExtraError(
                f"{KEY}: {self.name} cannot be called in a worker, because a column is not made of JSON values "
                f"({error}); give the function in_process: true"
            ) from error

    def _awaited(self, arguments: dict[str, Any], count: int) -> Outcome:
        async def call() -> Returned:
            return checked(await asyncio.wait_for(self.function(**arguments), self.timeout), count)

        # In a thread of its own, because a notebook has a running loop in this one.
        outcome = _outcome(lambda: asyncio.run(call()))
        late = outcome.status == "error" and outcome.detail.startswith("TimeoutError")
        return Outcome("timeout", None, f"no result after {self.timeout:g} s") if late else outcome


def _outcome(call: Callable[[], Returned]) -> Outcome:
    """The boundary to what others wrote: whatever a function raises becomes an answer, as in a worker."""
    try:
        return Outcome("done", call(), "")
    except Exception as error:
        return Outcome("error", None, f"{type(error).__name__}: {str(error)[:200]}")


def worker_spec(function: Reward, spec: str) -> str | None:
    """How a worker finds the function that ``spec`` names; ``None`` where it cannot, or is not to.

    Closures, lambdas, and what a notebook or the main script defines cannot be found from another process.
    """
    if getattr(function, "in_process", False):
        return None
    if spec not in REWARDS:
        return spec
    module, name = sys.modules.get(function.__module__), getattr(function, "__qualname__", "")
    if module is None or module.__name__ == "__main__" or getattr(module, name, None) is not function:
        return None
    # A file that the door loaded has no name that another process could import.
    return f"{module.__name__ if '.' in module.__name__ else module.__file__}:{name}"
