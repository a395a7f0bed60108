"""No process of a run waits for ever for another (docs/design.md, decision 12).

Two threads of each process look after it. One says every second, in the key-value store of ``jax.distributed``, that
the process lives and where it is, and reads what the others say. The other one judges it:

- a process has failed: all end, with its message and its exit status;
- a process gives no sign of life: it is named, and after ``LOST`` seconds all end with ``TRY_AGAIN``;
- a process stays behind the others: it is named, with what it is doing.

Time is counted in looks of our own, so that a process that was stopped itself, or whose clock was set, blames nobody.
"""

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Collection
from types import TracebackType
from typing import Any, NoReturn

from extra_jax.errors import printable, redact

TRY_AGAIN = 75
"""Exit status where the same command may well succeed: ``EX_TEMPFAIL`` of sysexits.h."""

QUIET, BEHIND, LOST = 15, 60, 80
"""Looks, one a second, after which a process is named because it gives no sign of life, is named because the others
wait for it, and is given up. A host that moves to another machine stands still for less than a minute."""

_GONE = 5  # looks without a sign of life that explain an error of a program that several processes run
_UNWIND = 30  # looks that a process which has failed may take to close what is open
_PATIENCE = 30.0  # seconds that process 0 waits for others to end, because their end is its end
_ROOT = "extra_jax/watchdog/"
_NO_SIGN = "has given no sign of life"

_watchdog: "Watchdog | None" = None


def start() -> None:
    """Begins to look after the processes that ``jax.distributed`` has joined; once."""
    global _watchdog
    from jax._src import distributed  # the one place of its key-value store

    client = distributed.global_state.client
    if _watchdog is None and client is not None and distributed.global_state.num_processes > 1:
        _watchdog = Watchdog(client, distributed.global_state.process_id, distributed.global_state.num_processes)
        _watchdog.start()


def at(place: str) -> None:
    """Notes what this process does now, for the others."""
    if _watchdog is not None:
        _watchdog.place = place


def meet() -> None:
    """Notes that this process has come to a place where it waits for the others. All come to the same places."""
    if _watchdog is not None:
        _watchdog.meetings += 1


def fail(message: str, status: int, *, foreseen: bool = True) -> None:
    """Ends all other processes, because this one is about to end with an error; to be called before what is open is
    closed, which may wait for them. Does not return where the error comes from another process.

    Args:
        message: of the error.
        status: with which all end.
        foreseen: False for an error that may come from the end of another process.
    """
    if _watchdog is not None:
        _watchdog.fail(message, status, foreseen)


class Watchdog:
    """Looks after one of ``count`` processes.

    Args:
        client: of the key-value store.
        index: of this process.

    Attributes:
        place: what this process does.
        meetings: how often it has come to where it waits for the others.
    """

    def __init__(self, client: Any, index: int, count: int):
        self.client, self.index, self.count = client, index, count
        self.place, self.meetings = "start", 0
        self._looks = 0  # of ours
        self._answered = 0  # our last look before the store answered
        self._heard: dict[str, Any] = {}  # all that it holds
        self._changed = dict.fromkeys(range(count), 0)  # our look at which a process said something new
        self._since = 0  # our look at which one of them came to a new meeting
        self._failing: tuple[str, int, int] | None = None  # message, status, look
        self._leaving = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)]

    def start(self) -> None:
        """Begins; until the interpreter ends."""
        for thread in self._threads:
            thread.start()
        atexit.register(self._leave)  # before that of jax, which was registered earlier
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
            before(kind, error, traceback)
            self.fail(f"{kind.__name__}: {error}", 1, foreseen=False)

        sys.excepthook = hook

    def _talk(self) -> None:
        while not self._leaving.wait(max(1.0, self.count / 64)):
            try:
                self.exchange()
            except Exception:  # the store is gone; the other thread judges that it does not answer
                continue

    def exchange(self) -> None:
        """Says where this process is and hears where the others are; waits while the store does not answer."""
        words = {"look": self._looks, "place": self.place, "meetings": self.meetings, "who": _who(self.index)}
        self.client.key_value_set(f"{_ROOT}at/{self.index}", json.dumps(words), allow_overwrite=True)
        entries = self.client.key_value_dir_get(_ROOT)
        heard = {key.removeprefix(_ROOT): json.loads(text) for key, text in entries}
        for index in range(self.count):
            now, before = heard.get(f"at/{index}"), self._heard.get(f"at/{index}", {})
            if now and now != before:
                self._changed[index] = self._looks
                if now["meetings"] != before.get("meetings"):
                    self._since = self._looks
        self._heard, self._answered = heard, self._looks

    def _watch(self) -> None:
        while not self._leaving.wait(1.0):
            if (verdict := self.look()) is not None:
                message, status = verdict
                _say(message)
                self._goodbye()
                _end(status)

    def look(self) -> tuple[str, int] | None:
        """Judges what was heard: the message and exit status with which this process has to end, if it has to."""
        self._looks += 1
        if self._failing is not None:
            message, status, since = self._failing
            return (message, status) if self._looks > since + _UNWIND else None
        if failure := self._heard.get("failed"):
            return f"{failure['who']} failed: {failure['message']}", failure["status"]
        silent = self._silent(QUIET)
        for index, quiet in silent.items():
            if quiet >= LOST:
                return f"{self._name(index)} {_NO_SIGN} for {quiet} s; start the same command again", TRY_AGAIN
            if quiet % QUIET == 0 and self._speaks(silent):
                _say(f"{self._name(index)} {_NO_SIGN} for {quiet} s; the others wait for it")
        still = self._looks - self._since
        if still and still % BEHIND == 0 and self._speaks(silent):
            known = {i: self._heard[f"at/{i}"] for i in range(self.count) if f"at/{i}" in self._heard}
            most = max((words["meetings"] for words in known.values()), default=0)
            for index, words in known.items():
                if words["meetings"] < most and index not in silent:
                    _say(f"the others have waited {still} s for {self._name(index)}; it is at: {words['place']}")
        return None

    def _silent(self, least: int) -> dict[int, int]:
        """Processes that have said nothing new for at least so many looks, and how many. Where the store does not
        answer, it is process 0, which keeps it."""
        if (quiet := self._looks - self._answered) >= least:
            return {0: quiet}
        quiet_for = {index: self._looks - changed for index, changed in self._changed.items()}
        return {
            index: quiet
            for index, quiet in quiet_for.items()
            if quiet >= least and index != self.index and f"ended/{index}" not in self._heard
        }

    def _speaks(self, silent: Collection[int]) -> bool:
        """Whether it is this process that says what all know: the first that lives."""
        return self.index == min(set(range(self.count)) - set(silent))

    def _name(self, index: int) -> str:
        return self._heard.get(f"at/{index}", {}).get("who", f"process {index}")

    def fail(self, message: str, status: int, foreseen: bool) -> None:
        """See the function ``fail``."""
        if self._failing is not None:
            return
        if not foreseen:  # another one may have failed or ended; the other thread ends this one if it hears so
            until = self._looks + _GONE + 1
            while self._looks < until:
                time.sleep(0.1)
            if gone := self._silent(_GONE - 1):
                names = ", ".join(map(self._name, sorted(gone)))
                message = f"{names} has ended without a word; start the same command again ({message})"
                _say(message)
                self._publish(message, TRY_AGAIN)
                self._goodbye()
                _end(TRY_AGAIN)
        self._publish(message, status)
        self._failing = message, status, self._looks

    def _publish(self, message: str, status: int) -> None:
        self._set("failed", {"who": _who(self.index), "message": message, "status": status})

    def _set(self, key: str, value: Any) -> None:
        """Says something once; the first who says it is right, and who cannot say it any more need not."""
        try:
            self.client.key_value_set(_ROOT + key, json.dumps(value))
        except Exception as error:
            if "ALREADY_EXISTS" not in f"{error}":
                _say(f"cannot tell the other processes: {f'{error}'.splitlines()[0]}")

    def _goodbye(self) -> None:
        """The store ends with process 0, and with it every process that still uses it."""
        if self.index:
            self._set(f"ended/{self.index}", True)
            return
        deadline = time.monotonic() + _PATIENCE
        living = set(range(1, self.count)) - self._silent(_GONE - 1).keys()
        while living and time.monotonic() < deadline:
            time.sleep(0.1)
            keys = {key.removeprefix(_ROOT) for key, _ in self.client.key_value_dir_get(_ROOT)}
            living = {index for index in living if f"ended/{index}" not in keys}

    def _leave(self) -> None:
        """At the end of the interpreter: after a failure nobody waits for it; else it waits until all are here, so that
        it hears whether the last ones fail."""
        if self._failing is not None:
            self._goodbye()
            _end(self._failing[1])
        self.place = "end"
        self._set(f"done/{self.index}", True)
        while not all(f"done/{index}" in self._heard for index in range(self.count)):
            time.sleep(0.1)
        self._leaving.set()
        for thread in self._threads:
            thread.join()


def _who(index: int) -> str:
    return f"process {index} (pid {os.getpid()} on {socket.gethostname()})"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the log may lie on the disk that is full; ending matters more
        print(f"extra-jax: {printable(redact(text))}", file=sys.stderr, flush=True)


def _end(status: int) -> NoReturn:
    """Nothing more of this program runs: another thread may be in a program that waits for a process that is gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)
