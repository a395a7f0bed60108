"""What a TPU chip can do, as its vendor states it, and what of its memory the compiler gives to programs."""

import re
from dataclasses import dataclass

from extra_jax.errors import ExtraError
from extra_jax.rollout.memory import USABLE_GIB

_GIB = 2**30
_THREE = ("v4", "v5p", "tpu7x")  # chips with links in three dimensions
_DOCS = "Cloud TPU documentation, page {}"


@dataclass(frozen=True)
class Chip:
    """Peak numbers of one chip."""

    name: str  # as topologies spell it (`v5e:4x4`)
    hbm_bytes: int  # that programs may use
    flops: float  # bf16 FLOP/s
    hbm_bandwidth: float  # bytes/s
    ici_bandwidth: float  # bytes/s out of the chip over all links to its neighbours, one way
    dcn_bandwidth: float  # bytes/s of the data centre network, a chip's share of its host, one way
    devices: int  # that JAX sees on a chip
    source: str  # of these numbers


# Interconnect: half of the bidirectional bandwidth of the documentation (v4: all-reduce bandwidth of a pod over its
# chips). Data centre network: network cards of a host over its chips.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", int(USABLE_GIB["TPU v4"] * _GIB), 275e12, 1200e9, 270e9, 6.25e9, 1, _DOCS.format("TPU v4")),
        Chip("v5e", int(USABLE_GIB["TPU v5 lite"] * _GIB), 197e12, 819e9, 200e9, 3.125e9, 1, _DOCS.format("TPU v5e")),
        Chip("v5p", int(USABLE_GIB["TPU v5"] * _GIB), 459e12, 2765e9, 600e9, 6.25e9, 1, _DOCS.format("TPU v5p")),
        Chip("v6e", int(USABLE_GIB["TPU v6 lite"] * _GIB), 918e12, 1638e9, 400e9, 12.5e9, 1, _DOCS.format("TPU v6e")),
        Chip(
            "tpu7x",
            int(2 * USABLE_GIB["TPU7x"] * _GIB),
            2307e12,
            7380e9,
            600e9,
            12.5e9,
            2,
            _DOCS.format("TPU7x (Ironwood)"),
        ),
    )
}


def find_chip(topology: str) -> Chip:
    """The chip of a topology such as ``v5e:4x4``.

    Raises:
        ExtraError: not of the form NAME:AxB, or a name that is not known; the known ones are listed.
    """
    name, separator, shape = topology.partition(":")
    if name not in CHIPS or not separator or not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", shape, re.ASCII):
        raise ExtraError(
            f"topology {topology!r}: give CHIP:AxB, or CHIP:AxBxC for {', '.join(_THREE)}; "
            f"chips: {', '.join(CHIPS)}; for example v5e:4x4 or v5p:2x2x1"
        )
    return CHIPS[name]
