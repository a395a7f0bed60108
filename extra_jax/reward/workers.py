"""Grading in killable worker processes, so that no sample can stop or blind the trainer.

``WorkerPool`` runs one function on JSON values in processes with a wall deadline, a processor-time limit and a memory
limit (``worker_process`` is their side). ``MathGrader`` puts ``math.grade_math`` on such a pool: what needs no algebra
is decided at once in the caller, the rest is answered by the workers while the caller generates further.
"""

import atexit
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Self

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.reward import math as math_grader
from extra_jax.reward.verdict import Grade, Grader, Verdict
from extra_jax.reward.worker_process import Channel, Settings

_ATTEMPTS = 2
_CLOSE_SECONDS = 5.0
# Seconds beyond the deadline of a task, and of the start, in which a template that works has answered: a machine may be
# very busy.
_GRACE_SECONDS = 30.0
_START_SECONDS = 300.0
_LOOK_SECONDS = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Bounds on one task and on one worker.

    Attributes:
        deadline_seconds: Wall time of one task, counted from the moment a worker takes it.
        cpu_seconds: Processor time of one task; unlike the wall it does not depend on how busy the machine is.
        memory_mb: Address space of one worker.
        tasks_per_worker: Tasks after which a worker is replaced by a fresh one.
    """

    deadline_seconds: float = 12.0
    cpu_seconds: int = 4
    memory_mb: int = 1024
    tasks_per_worker: int = 1000


@dataclass(frozen=True)
class Outcome:
    """What became of one task: ``value`` when it is done, ``detail`` when it is not."""

    status: Literal["done", "timeout", "error"]
    value: Any
    detail: str


@dataclass
class _Task:
    message: bytes
    future: "Future[Outcome]"
    attempts: int = 0


class WorkerPool:
    """Runs ``function`` in ``workers`` killable processes; results never get lost, and never wait for each other.

    Thread-safe. The processes are started with a fresh interpreter (no fork of this one, so a running JAX or an open
    accelerator is not inherited) and import only the module of ``function``.

    Args:
        function: ``"module:name"``; positional JSON arguments, JSON result.
        workers: Number of worker processes.
        limits: Bounds per task and per worker.
        warm_up: ``"module:name"`` and its arguments, called once before workers are forked.
    """

    def __init__(
        self, function: str, *, workers: int = 2, limits: Limits | None = None, warm_up: Sequence[str] = ()
    ) -> None:
        if workers < 1:
            raise ExtraError(f"a worker pool needs at least 1 worker, got {workers}")
        self._function, self._workers, self._warm_up = function, workers, warm_up
        self._limits = limits or Limits()
        self._owner = os.getpid()
        self._lock = threading.Lock()  # guards the fields below; never held while a socket may block
        self._send_lock = threading.Lock()
        self._numbers = itertools.count()
        self._tasks: dict[int, _Task] = {}
        self._closed = False
        self._start()
        atexit.register(self.close)

    def submit(self, *args: Any) -> "Future[Outcome]":
        """Queue one call; returns at once. The future always ends in an ``Outcome``, unless no worker can start."""
        if os.getpid() != self._owner:
            raise ExtraError("a worker pool cannot be used in a fork of the process that made it; make a new one there")
        number = next(self._numbers)
        task = _Task(Channel.encode([number, args]), Future())
        task.future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise ExtraError("this worker pool is closed")
            if self._broken is not None:
                raise ExtraError(self._broken)
            if not self._tasks:
                self._heard = time.monotonic()
            self._tasks[number] = task
        self._send(task)
        return task.future

    def close(self) -> None:
        """Stop the processes and answer what is still open with an error; may be called again."""
        with self._lock:
            if self._closed or os.getpid() != self._owner:
                return
            self._closed = True
            left, self._tasks = self._tasks, {}
        atexit.unregister(self.close)
        self._hang_up()
        for task in left.values():
            task.future.set_result(Outcome("error", None, "the worker pool was closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        settings = Settings(
            control=theirs.fileno(),
            function=self._function,
            warm_up=tuple(self._warm_up),
            workers=self._workers,
            **dataclasses.asdict(self._limits),
        )
        command = [sys.executable, "-m", "extra_jax.reward.worker_process", json.dumps(dataclasses.asdict(settings))]
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,  # Ctrl-C belongs to the trainer, which then closes the pool
        )
        theirs.close()
        self._channel = Channel(ours)
        self._ready = False
        self._heard = time.monotonic()  # when the template answered last, or was given something to do
        self._broken: str | None = None
        self._reader = threading.Thread(target=self._read, name="grading-results", daemon=True)
        self._reader.start()

    def _send(self, task: _Task) -> None:
        task.attempts += 1
        # On a connection error the template has died: the reader sees the same end and sends the task again.
        with self._send_lock, contextlib.suppress(ConnectionError):
            self._channel.sock.sendall(task.message)

    def _read(self) -> None:
        channel = self._channel
        while True:
            while not select.select([channel.sock], [], [], _LOOK_SECONDS)[0]:
                self._kill_frozen()
            self._heard = time.monotonic()
            try:
                messages = list(channel.receive())
            except (EOFError, OSError):
                break
            for message in messages:
                if message[0] == "ready":
                    self._ready = True
                    continue
                number, status, value, detail = message
                with self._lock:
                    task = self._tasks.pop(number, None)
                if task is not None:
                    task.future.set_result(Outcome(status, value, detail))
        self._recover()

    def _kill_frozen(self) -> None:
        """A template that owes an answer for too long, stopped or swapped out, is killed, and then replaced."""
        patience = _GRACE_SECONDS + self._limits.deadline_seconds if self._ready else _START_SECONDS
        if (self._tasks or not self._ready) and time.monotonic() - self._heard > patience:
            _logger.warning(f"grading workers for {self._function}: no answer for {patience:g} s; started again")
            os.killpg(self._process.pid, signal.SIGKILL)
            self._heard = time.monotonic()

    def _recover(self) -> None:
        """The template is gone: start another and send again what it had not answered."""
        with self._send_lock, self._lock:
            if self._closed:
                return
            code = self._process.wait()
            self._channel.sock.close()
            lost = self._tasks if not self._ready else {n: t for n, t in self._tasks.items() if t.attempts >= _ATTEMPTS}
            self._tasks = {number: task for number, task in self._tasks.items() if number not in lost}
            again = list(self._tasks.values())
            if self._ready:
                self._start()
            else:
                self._broken = (
                    f"grading workers for {self._function} could not start (exit code {code}); the reason is on "
                    f"stderr, or run: {sys.executable} -c 'import {self._function.split(':')[0]}'"
                )
        for task in lost.values():
            if self._broken is not None:
                task.future.set_exception(ExtraError(self._broken))
            else:
                task.future.set_result(Outcome("error", None, f"the grading process died twice (exit code {code})"))
        for task in again:
            self._send(task)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # the other end may already be gone
            self._channel.sock.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_CLOSE_SECONDS if self._ready else 0)  # one that still imports would not hear it
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._channel.sock.close()


class PendingGrades:
    """Grades that are being worked on; order follows the input.

    Args:
        name: Name of the grader.
        grades: Finished grades, or the answer (``None`` if not known yet) with the future of
            ``(verdict, answer, detail)``, or with a score behind.
    """

    def __init__(self, name: str, grades: "Sequence[Grade | tuple[str | None, Future[Outcome]]]") -> None:
        self._name = name
        self._grades = grades

    def result(self) -> list[Grade]:
        """Waits for all grades."""
        return [grade if isinstance(grade, Grade) else self._settle(*grade) for grade in self._grades]

    def _settle(self, answer: str | None, future: "Future[Outcome]") -> Grade:
        outcome = future.result()
        if outcome.status == "done":
            verdict, answer, detail, *score = outcome.value
            return Grade(Verdict(verdict), answer, self._name, detail, *score)
        return Grade(Verdict(outcome.status), answer, self._name, outcome.detail)


class MathGrader(Grader):
    """``math.grade_math`` on a ``WorkerPool``; a ``Grader``.

    Args:
        workers: Number of worker processes.
        options: How completions are read (thinking, guard).
        limits: Bounds per sample and per worker.
    """

    name = math_grader.NAME

    def __init__(
        self, *, workers: int = 2, options: math_grader.Options | None = None, limits: Limits | None = None
    ) -> None:
        self._options = options or math_grader.Options()
        task, warm_up = "extra_jax.reward.math:compare_task", ("extra_jax.reward.math:warm_up",)
        self._pool = WorkerPool(task, workers=workers, limits=limits, warm_up=warm_up)

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> PendingGrades:
        """Start grading and return at once, so that it overlaps with generation."""
        pairs = zip(problems, completions, strict=True)
        return PendingGrades(self.name, [self._begin(problem.answer, text) for problem, text in pairs])

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether either one would be correct if the other were the gold; what takes too long is not the same."""
        same = self._accepted(pairs)
        left = [index for index, equal in enumerate(same) if not equal]
        for index, equal in zip(left, self._accepted([pairs[i][::-1] for i in left]), strict=True):
            same[index] = equal
        return same

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()

    def _accepted(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        values = [tuple(map(math_grader.plain_rational, pair)) for pair in pairs]
        slow = {i: self._pool.submit(*pairs[i], True) for i, value in enumerate(values) if None in value}
        outcomes = {i: future.result() for i, future in slow.items()}
        return [
            outcomes[i].status == "done" and outcomes[i].value[0] == Verdict.CORRECT if i in outcomes else one == other
            for i, (one, other) in enumerate(values)
        ]

    def _begin(self, gold: str, completion: str) -> "Grade | tuple[str, Future[Outcome]]":
        started = math_grader.begin(gold, completion, self._options)
        if isinstance(started, Grade):
            return started
        return started, self._pool.submit(gold, started)
