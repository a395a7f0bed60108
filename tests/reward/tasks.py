"""Tasks for worker pools: well-behaved and poisoned."""

import ctypes
import os
import signal
import sys
import time


def echo(value):
    """The argument."""
    return value


def who():
    """Process id of the worker, of its template, and whether it has imported jax."""
    return os.getpid(), os.getppid(), "jax" in sys.modules


def run(kind, value=None):
    """One of many fates."""
    return _KINDS[kind](value)


def _hog(_):
    blocks = []
    while True:
        blocks.append(bytearray(256 << 20))  # at its limit soon, also on a busy machine


def _burn(_):
    number = 1
    while True:
        number = number * 3 + 1 if number < 10**50 else 1


def _recurse(depth):
    return _recurse((depth or 0) + 1)


def _fail(value):
    raise ValueError(f"no {value}")


_KINDS = {
    "echo": echo,
    "who": lambda _: who(),
    "sleep": lambda seconds: time.sleep(seconds or 3600),
    "burn": _burn,
    "hog": _hog,
    "recurse": _recurse,
    "fail": _fail,
    "exit": lambda code: os._exit(code or 3),
    "crash": lambda _: ctypes.string_at(0),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "object": lambda _: object(),
}
