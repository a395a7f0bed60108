"""Bytes of memory that a compiled TPU program moves, counted from its text.

XLA's own cost analysis counts the insides of fused operations, what stays on the chip, and the body of a loop once.
Here counts what crosses the border of an operation, where the compiler has placed it in HBM (it marks other memory, as
``S(1)``): of an operand that is only sliced in there, the slices; of a result that is updated in place, the update. A
loop over layers counts as often as it runs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from extra_jax.plan.hlo import SHAPE, array_bytes, split_computations, visits

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.$-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)(.*)$")
_ARRAY = re.compile(r"\b[a-z]+\d*\[[\d,]*\](?:\{[^}]*\})?")
_NAME = re.compile(r"%([\w.$#-]+)")
_CALLS = re.compile(r"calls=%?([\w.$-]+)")
_SLICES = ("dynamic-slice", "slice", "gather")
_FREE = ("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all")
_CALLERS = ("while", "conditional", "call")  # what they call counts


@dataclass(frozen=True)
class Instruction:
    """A line of a computation. ``text`` is what its brackets hold, ``calls`` the fused computation or ''."""

    name: str
    shape: str
    kind: str
    operands: list[str]
    text: str
    root: bool
    calls: str


class Body(dict[str, Instruction]):
    """The instructions of a computation by name, operands before their users."""

    def __init__(self, lines: Sequence[str]):
        for match in filter(None, map(_INSTRUCTION.match, lines)):
            root, name, shape, kind, text, rest = match.groups()
            called = _CALLS.search(rest)
            self[name] = Instruction(
                name, shape, kind, _NAME.findall(text), text.strip(), bool(root), called[1] if called else ""
            )

    def shape(self, operand: str) -> str:
        """``tuple#3`` is an element of a tuple."""
        name, _, index = operand.partition("#")
        if name not in self:
            return ""
        return _ARRAY.findall(self[name].shape)[int(index)] if index else self[name].shape


def loop_traffic(text: str, fixed: int | None = None) -> tuple[float, int]:
    """Bytes read and written, and operations started, by one trip of the loops over data of a program; a decode step,
    if it is ``decode_chunk``.

    Args:
        text: of the program.
        fixed: trips of the loop over tokens, where it does not stop early.
    """
    lines, entry = split_computations(text)
    program = {name: Body(body) for name, body in lines.items()}
    fused = {one.calls for body in program.values() for one in body.values()}
    moved, started = 0.0, 0
    for name, runs, depth in visits(lines, entry, (), fixed=fixed):
        if depth and name in program and name not in fused:
            moved += runs * sum(_moved(program, name, one) for one in program[name].values())
            started += runs * sum(_starts(one) for one in program[name].values())
    return moved, started


def _starts(one: Instruction) -> bool:
    """Whether the chip does something for the operation ``one``."""
    return one.kind not in (*_FREE, *_CALLERS) and not one.kind.endswith(("-done", "-update"))


def _moved(program: dict[str, Body], computation: str, one: Instruction) -> float:
    """Bytes between HBM and the operation ``one``."""
    body = program[computation]
    if one.kind in (*_FREE, *_CALLERS) or one.kind.endswith(("-done", "-update")):
        return 0.0
    if one.kind in ("copy-start", "slice-start"):  # (to, from, ...), ((from), to, ...)
        ends = _ARRAY.findall(one.shape)[:2]
        return min(map(_size, ends)) * sum(map(_in_hbm, ends))
    if one.kind == "dynamic-update-slice":
        return _hbm(body.shape(one.operands[1])) + _updated(body, one)
    if one.kind in _SLICES:
        return 2 * _hbm(one.shape)
    read = 0.0
    for place, operand in enumerate(one.operands):
        size = _hbm(body.shape(operand))
        if size and one.calls in program:
            part = _sliced(program, one.calls, place)
            size = size if part is None else min(size, part)
        read += size
    return read + (_written(program[one.calls]) if one.calls in program else _hbm(one.shape))


def _sliced(program: dict[str, Body], computation: str, place: int) -> float | None:
    """Bytes that a fused computation takes of its parameter ``place``; ``None`` for all of it."""
    body, total = program[computation], 0.0
    same = {one.name for one in body.values() if one.kind == "parameter" and one.text == str(place)}
    for one in body.values():
        places = [i for i, name in enumerate(one.operands) if name in same]
        if not places:
            continue
        if _renames(program, one) and not one.root:
            same.add(one.name)
        elif one.kind in _SLICES:
            total += sum(map(_size, _ARRAY.findall(one.shape)))
        elif one.kind == "fusion" and one.calls in program:
            for part in (_sliced(program, one.calls, i) for i in places):
                if part is None:
                    return None
                total += part
        elif one.kind != "dynamic-update-slice" or places != [0]:
            return None
    return total


def _renames(program: dict[str, Body], one: Instruction) -> bool:
    """Whether an operation inside of a fused one gives what it takes, perhaps in other tiles."""
    inside = program.get(one.calls, {}).values() if one.kind == "fusion" else [one]
    return bool(inside) and all(part.kind in ("parameter", "bitcast", "copy") for part in inside)


def _written(body: Body) -> float:
    """Bytes that a fused computation writes."""
    root, total = next(one for one in body.values() if one.root), 0.0
    for name in root.operands if root.kind == "tuple" else [root.name]:
        one, in_hbm = body[name], _hbm(body[name].shape)
        while one.kind == "bitcast" and one.operands[0] in body:
            one = body[one.operands[0]]
        total += min(in_hbm, _updated(body, one)) if one.kind == "dynamic-update-slice" else in_hbm
    return total


def _updated(body: Body, one: Instruction) -> float:
    """Bytes that an update in place writes."""
    update = sum(map(_size, _ARRAY.findall(body.shape(one.operands[1]))))
    return update if _hbm(one.shape) else 0.0


def _hbm(shape: str) -> float:
    return float(sum(_size(array) for array in _ARRAY.findall(shape) if _in_hbm(array)))


def _in_hbm(array: str) -> bool:
    return "S(" not in array


def _size(array: str) -> float:
    return array_bytes(SHAPE.findall(array)[0])
