"""The other end of ``workers.WorkerPool``: one template process, and workers forked from it.

``python -m extra_jax.reward.worker_process '<json settings>'`` imports the function once, says that it is ready and
then only moves messages: it never touches a task itself. Tasks run in forked workers, which start in milliseconds
because the template is already warm. A worker that passes its wall deadline is killed; one that passes its CPU or
memory limit is killed by the kernel; either is replaced at once and the task is answered with what happened. Nothing
here imports jax, and no worker shares a pipe with another.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_LENGTH = struct.Struct("!I")
_PR_SET_PDEATHSIG = 1
_ATTEMPTS = 2


@dataclass(frozen=True)
class Settings:
    """What the pool tells the template.

    Attributes:
        control: File descriptor of the socket to the pool.
        function: ``"module:name"`` of the function to run; arguments and result are JSON values.
        warm_up: ``"module:name"`` and its arguments, called once before the first fork; empty: nothing is.
        workers: Number of workers.
        deadline_seconds: Wall time that one task may take.
        cpu_seconds: Processor time that one task may take.
        memory_mb: Address space of one worker.
        tasks_per_worker: Tasks after which a worker is replaced.
    """

    control: int
    function: str
    warm_up: Sequence[str]
    workers: int
    deadline_seconds: float
    cpu_seconds: int
    memory_mb: int
    tasks_per_worker: int


class Channel:
    """Length-prefixed JSON messages over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    @staticmethod
    def encode(message: Any) -> bytes:
        """The bytes of one message; ``TypeError`` when it is not made of JSON values."""
        body = json.dumps(message).encode()
        return _LENGTH.pack(len(body)) + body

    def send(self, message: Any) -> None:
        """Write one message; blocks until all of it is written."""
        self.sock.sendall(self.encode(message))

    def receive(self) -> Iterator[Any]:
        """Read what is there once and yield the complete messages; raises ``EOFError`` at the end."""
        chunk = self.sock.recv(1 << 16)
        if not chunk:
            raise EOFError
        self._buffer += chunk
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield json.loads(body)


@dataclass
class _Worker:
    pid: int
    channel: Channel
    task: "_Task | None" = None
    kill_at: float = 0.0
    done: int = 0


@dataclass
class _Task:
    number: int
    args: list[Any]
    attempts: int = 0


@dataclass
class _Template:
    """Event loop over the pool's socket and the workers' sockets."""

    settings: Settings
    function: Callable[..., Any]
    control: Channel
    waiting: deque[_Task] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self) -> None:
        self.selector.register(self.control.sock, selectors.EVENT_READ, None)
        for _ in range(self.settings.workers):
            self._fork()
        self.control.send(["ready", os.getpid()])
        while True:
            self._assign()
            for key, _ in self.selector.select(self._patience()):
                if key.data is None:
                    try:
                        self.waiting.extend(_Task(number, args) for number, args in self.control.receive())
                    except (EOFError, ConnectionError):
                        return  # the pool is closed, or its process is gone
                elif key.data in self.workers:
                    self._hear(key.data)
            self._kill_late()

    def stop(self) -> None:
        for worker in list(self.workers):
            self._bury(worker)

    def _patience(self) -> float | None:
        busy = [worker.kill_at for worker in self.workers if worker.task is not None]
        return max(0.0, min(busy) - time.monotonic()) if busy else None

    def _assign(self) -> None:
        for worker in list(self.workers):
            if not self.waiting:
                return
            if worker.task is None:
                worker.task = self.waiting.popleft()
                worker.task.attempts += 1
                worker.kill_at = time.monotonic() + self.settings.deadline_seconds
                try:
                    worker.channel.send(worker.task.args)
                except ConnectionError:
                    self._replace(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            replies = list(worker.channel.receive())
        except (EOFError, ConnectionError):
            self._replace(worker)
            return
        for last, *reply in replies:
            self._answer(worker, *reply)
            worker.done += 1
            if last or worker.done >= self.settings.tasks_per_worker:
                self._replace(worker)

    def _answer(self, worker: _Worker, status: str, value: Any, detail: str) -> None:
        assert worker.task is not None
        self.control.send([worker.task.number, status, value, detail])
        worker.task = None

    def _kill_late(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.task is not None and now >= worker.kill_at:
                self._answer(worker, "timeout", None, f"no result after {self.settings.deadline_seconds:g} s")
                self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        status = self._bury(worker)
        if worker.task is not None:
            if status == -signal.SIGKILL and worker.task.attempts < _ATTEMPTS:
                self.waiting.appendleft(worker.task)  # killed from outside, perhaps before it began
            else:
                self._answer(worker, *self._explain(status))
        self._fork()

    def _bury(self, worker: _Worker) -> int:
        """Kill and reap; a worker that ended by itself keeps its own status."""
        self.workers.remove(worker)
        self.selector.unregister(worker.channel.sock)
        worker.channel.sock.close()
        os.kill(worker.pid, signal.SIGKILL)  # not reaped yet, so the pid is still ours
        return os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])

    def _explain(self, exitcode: int) -> tuple[str, None, str]:
        if exitcode == -signal.SIGXCPU:
            return "timeout", None, f"used more than {self.settings.cpu_seconds} s of processor time"
        cause = f"signal {signal.Signals(-exitcode).name}" if exitcode < 0 else f"exit code {exitcode}"
        return "error", None, f"worker ended with {cause} (memory limit {self.settings.memory_mb} MB)"

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                self._leave_template()
                status = _work(Channel(theirs), self.function, self.settings, template)
            finally:
                os._exit(status)
        theirs.close()
        worker = _Worker(pid, Channel(ours))
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def _leave_template(self) -> None:
        self.selector.close()
        self.control.sock.close()
        for worker in self.workers:
            worker.channel.sock.close()


def _limit(settings: Settings) -> None:
    # macOS refuses RLIMIT_AS; there the deadline and the processor limit are the bound.
    if sys.platform == "linux":
        size = settings.memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processor(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _die_with(template: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        os._exit(1)


def _work(channel: Channel, function: Callable[..., Any], settings: Settings, template: int) -> int:
    """Serve tasks until the template hangs up; the return value is the exit status."""
    _die_with(template)
    _limit(settings)
    while True:
        try:
            tasks = list(channel.receive())
        except (EOFError, ConnectionError):
            return 0
        for args in tasks:
            _limit_processor(settings.cpu_seconds)
            channel.sock.sendall(_reply(function, args, settings))


def _reply(function: Callable[..., Any], args: list[Any], settings: Settings) -> bytes:
    """``[last, status, value, detail]``; with ``last`` the worker asks to be replaced."""
    try:
        return Channel.encode((False, "done", function(*args), ""))
    except MemoryError:  # the heap may be in pieces
        return Channel.encode((True, "error", None, f"memory limit of {settings.memory_mb} MB"))
    except Exception as error:  # the boundary: whatever a task raises becomes its own answer
        return Channel.encode((False, "error", None, f"{type(error).__name__}: {str(error)[:200]}"))


def load(name: str) -> Callable[..., Any]:
    """The object called ``"module:name"``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main() -> None:
    """Entry point of the template process."""
    settings = Settings(**json.loads(sys.argv[1]))
    control = Channel(socket.socket(fileno=settings.control))
    function = load(settings.function)
    if settings.warm_up:
        name, *arguments = settings.warm_up
        load(name)(*arguments)
    gc.collect()
    gc.freeze()
    template = _Template(settings, function, control)
    try:
        template.run()
    except BrokenPipeError:
        return  # the pool's process is gone
    finally:
        template.stop()


if __name__ == "__main__":
    main()
