"""Counts the collectives of a compiled program from its text.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs: as many times as the
constant that its condition compares with, and where the condition compares with data (micro-batches, chunks of the
head, tokens of a decode chunk), as many times as the caller says. An element of a tuple is an instruction of its own in
what JAX prints (``get-tuple-element``), and a suffix of its name in what the TPU compiler writes (``%tuple#3``).

For several slices the TPU compiler writes one program per slice, whose partitions are the devices of that slice. What
crosses slices is no collective there: each device sends its operand to its host, and the hosts do the rest over the
data centre network (``_SEND``). Nothing else leaves the slice.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from extra_jax.errors import ExtraError

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.$-]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_SEND = re.compile(
    r"= \((.*), u32\[\]\S*, token\[\]\) send\(.*_xla_megascale_target=(\S+?),[^,]*_transfer_type=\"(\w+)"
)
_PARTITIONS = re.compile(r"^HloModule .*\bnum_partitions=(\d+)")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.$-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*?%?([\w.$-]+)\), condition=%?([\w.$-]+), body=%?([\w.$-]+)")
_CONSTANT = re.compile(r"%?([\w.$-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_COPY = re.compile(r"%?([\w.$-]+) = [su]\d+\[\]\S* copy\(%?([\w.$-]+)\)")
_LESS = re.compile(r"compare\(%?([\w.$#-]+), %?([\w.$-]+)\), direction=LT")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INDEX = re.compile(r"%?([\w.$-]+) = .* get-tuple-element\(.*index=(\d+)")
_ADD = re.compile(r"%?([\w.$-]+) = .* add\(%?([\w.$#-]+), %?([\w.$-]+)\)")
_DEVICES_OF_A_SLICE = 100_000  # device 3 of the second slice is 200003
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
_TRANSFERS = {  # kind, and times its operand that a host sends for a device, of n slices
    "ALL_REDUCE": ("all-reduce", lambda n: 2 * (n - 1) / n),
    "ALL_GATHER": ("all-gather", lambda n: n - 1.0),  # the operand is one slice's part
    "REDUCE_SCATTER": ("reduce-scatter", lambda n: (n - 1) / n),
    "ALL_TO_ALL": ("all-to-all", lambda n: (n - 1) / n),  # a device keeps what stays in its own slice
    "ONE_TO_ONE": ("collective-permute", lambda n: 1.0),
}


@dataclass(frozen=True)
class Collective:
    """One collective operation."""

    kind: str  # one of `KINDS`
    shape: str  # of its result, e.g. `bf16[2048,6144]`
    bytes: float  # that a device sends in one run of it, by a ring; over slices, that its host sends for it
    runs: int  # how often it runs in one call of the program
    loops: int  # how many loops over data it is inside of
    crosses_slices: bool  # whether it goes over the data centre network


def collectives(text: str, dynamic_trips: Sequence[int] = (), devices: int = 1, slices: int = 1) -> list[Collective]:
    """Every collective of a program.

    Args:
        text: ``compiled.as_text()``.
        dynamic_trips: how often loops over data run, from the outermost inwards; deeper ones count once.
        devices: of all slices.
        slices: of the topology; device ``i`` is in slice ``i // (devices / slices)``.

    Raises:
        ExtraError: a transfer between slices in a spelling that is not known.
    """
    computations, entry = split_computations(text)
    stated = _PARTITIONS.match(text)
    partitions = int(stated[1]) if stated else devices
    by_line: dict[str, Collective] = {}
    for name, runs, depth in visits(computations, entry, dynamic_trips):
        lines = computations[name]
        asynchronous = any('"AsyncCollectiveStart"' in line for line in lines)
        if not asynchronous and (
            name.startswith("async_collective_fusion") or any('"AsyncCollectiveDone"' in line for line in lines)
        ):
            continue  # the middle and the end of a collective whose start is counted
        for number, line in enumerate(lines):
            one = _between_slices(line) or _collective(line, name, partitions, max(devices // slices, 1))
            if one:
                key = f"{name}/{number}"
                before = by_line[key].runs if key in by_line else 0
                by_line[key] = replace(one, runs=before + runs, loops=depth)
    return list(by_line.values())


def _collective(line: str, computation: str, partitions: int, per_slice: int) -> Collective | None:
    """The collective that a line is, if any, with no runs yet."""
    match = _COLLECTIVE.search(line)
    if not match:
        return None
    kind, shapes, group = match[2], SHAPE.findall(match[1]), _group(line, partitions)
    sent = _sent(kind, shapes, len(group), started="-start(" in line)
    if computation.startswith("all-reduce-scatter"):  # fused with the slice that makes one half of it needless
        kind, sent = "reduce-scatter", sent / 2
    return Collective(kind, _largest(shapes), sent, 0, 0, len({device // per_slice for device in group}) > 1)


def _between_slices(line: str) -> Collective | None:
    """The send to the host that a line is, if any, as the collective over slices that the hosts make of it.

    The text names slices from 1, as ``"{1,2}x{0:3}"``, or devices, as ``{{100000,200000},{100001,200001}}``; its first
    group is like all others.

    Raises:
        ExtraError: a spelling that is not known.
    """
    if " send(" not in line or "xla_megascale" not in line:
        return None
    match = _SEND.search(line)
    if not match or match[3] not in _TRANSFERS:
        raise ExtraError(
            f"a transfer between slices that extra_jax/plan/hlo.py cannot read (it knows {', '.join(_TRANSFERS)}): "
            f"{line.strip()[:400]}; plan one slice, or teach it this spelling"
        )
    shapes, target = SHAPE.findall(match[1]), match[2]
    first = [int(number) for number in re.findall(r"\d+", target[: target.index("}")])]
    over = len(first) if target.startswith('"') else len({device // _DEVICES_OF_A_SLICE for device in first})
    kind, factor = _TRANSFERS[match[3]]
    return Collective(kind, _largest(shapes), factor(over) * sum(map(array_bytes, shapes)), 0, 0, True)


def split_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line == "}":  # alone: a line of the JSON of a kernel may begin with one, too
            lines = []
        else:
            lines.append(line)
    return computations, entry


def visits(
    computations: dict[str, list[str]],
    name: str,
    trips: Sequence[int],
    runs: int = 1,
    depth: int = 0,
    fixed: int | None = None,
) -> Iterator[tuple[str, int, int]]:
    """(computation, how often it runs, loops over data around it) for everything that is called from ``name``. An
    outermost loop of ``fixed`` trips counts as one over data: the one over tokens, where it does not stop early."""
    yield name, runs, depth
    for line in computations.get(name, ()):
        if "async-done(" in line or "async-update(" in line:
            continue  # names the computation that its start has called
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for callee in called:
            yield from visits(computations, callee, trips, runs, depth, fixed)
        if loop := _WHILE.search(line):
            known, (start, condition, body) = _KNOWN.search(line), loop.groups()
            count = int(known[1]) if known else _trip_count(computations, name, start, condition, body)
            inside = depth
            if count is None:
                count, inside = trips[depth] if depth < len(trips) else 1, depth + 1
            elif count == fixed and not depth:
                count, inside = 1, 1
            for part in (body, condition):  # a condition over data may ask other devices
                yield from visits(computations, part, trips, runs * count, inside, fixed)


def _trip_count(computations: dict[str, list[str]], name: str, start: str, condition: str, body: str) -> int | None:
    """Trips of a loop that counts to a constant; ``None`` where its condition looks at data.

    It counts from the constant in the tuple ``start`` of the computation ``name``, because the compiler may have peeled
    off the first trips; from 0 where there is no such constant.
    """
    caller, asks, does = computations[name], computations[condition], computations[body]
    constants = _named(_CONSTANT, *asks, *does)
    less = _LESS.search(_root(asks))
    if not less or less[2] not in constants:
        return None
    place = less[1].partition("#")[2] or _named(_INDEX, *asks).get(less[1])
    if not place:
        return None
    counter = _elements(_root(does))[int(place)]
    sums = {match[1]: match[3] for line in does if (match := _ADD.search(line))}
    step = int(constants.get(sums.get(counter, ""), 1))  # XLA runs several parts of a collective matmul in one trip
    initial = next((line for line in caller if re.match(rf"\s*%?{re.escape(start)} = .* tuple\(", line)), "")
    first = _elements(initial)[int(place)] if initial else ""
    before = int(_named(_CONSTANT, *caller).get(_named(_COPY, *caller).get(first, first), 0))
    return -(-(int(constants[less[2]]) - before) // step)


def _named(pattern: re.Pattern, *lines: str) -> dict[str, str]:
    """What ``pattern`` finds in lines: its second group by its first, which is the name of the instruction."""
    return {match[1]: match[2] for line in lines if (match := pattern.search(line))}


def _root(lines: Sequence[str]) -> str:
    return next((line for line in lines if line.lstrip().startswith("ROOT")), "")


def _elements(line: str) -> list[str]:
    """Names of the operands of a tuple."""
    return re.findall(r"%([\w.$#-]+)", line.rpartition(" tuple(")[2].partition(")")[0])


def _largest(shapes: list[tuple[str, str]]) -> str:
    dtype, dimensions = max(shapes, key=array_bytes, default=("", ""))
    return f"{dtype}[{dimensions}]"


def array_bytes(shape: tuple[str, str]) -> float:
    """Of an array as ``SHAPE`` finds it: dtype and dimensions."""
    dtype, dimensions = shape
    return _BYTES.get(dtype, 4) * math.prod(int(size) for size in dimensions.split(",") if size)


def _sent(kind: str, shapes: list[tuple[str, str]], group: int, *, started: bool) -> float:
    """Bytes that a device sends: a ring over ``group`` devices. ``shapes`` are those of the result."""
    if started and kind == "collective-permute":  # (operand, result, two contexts)
        shapes = shapes[:1]
    elif started and kind == "all-gather":  # (operands..., results...)
        shapes = shapes[len(shapes) // 2 :]
    share = (group - 1) / group
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "reduce-scatter": group - 1.0}.get(kind, share)
    return factor * sum(map(array_bytes, shapes))


def _group(line: str, partitions: int) -> list[int]:
    """Partitions of the first group."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        pairs_found = re.findall(r"\{(\d+),(\d+)\}", line[pairs.start() :])
        far = max(pairs_found, key=lambda pair: abs(int(pair[0]) - int(pair[1])))
        return [int(far[0]), int(far[1])]
    if explicit := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(device) for device in explicit[1].split(",")]
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        used = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", named[2])
        return _along_axes(sizes, used)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return _iota(*iota.groups()[1:])
    return list(range(partitions))


def _along_axes(sizes: dict[str, int], used: list[tuple[str, str, str]]) -> list[int]:
    """Device 0 and those that differ from it along ``used``: axes, or parts ``name:(size before)size`` of axes."""
    strides, stride = {}, 1
    for axis in reversed(sizes):
        strides[axis] = stride
        stride *= sizes[axis]
    group = [0]
    for axis, before, size in used:
        length = int(size) if size else sizes[axis]
        step = strides[axis] * (sizes[axis] // (int(before) * length) if before else 1)
        group = [device + step * i for device in group for i in range(length)]
    return group


def _iota(size: str, dims: str, order: str | None) -> list[int]:
    """First group of ``[groups,size]<=[dims]T(order)``."""
    shape = [int(dim) for dim in dims.split(",")]
    axes = [int(axis) for axis in order.split(",")] if order else list(range(len(shape)))
    return np.arange(math.prod(shape)).reshape(shape).transpose(axes).ravel()[: int(size)].tolist()
