"""The device mesh of a run."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from extra_jax.config import MeshConfig
from extra_jax.errors import ExtraError

AXES = ("data", "fsdp", "tensor")


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """Sizes of the axes; the axis given as -1 takes the devices that are left.

    Raises:
        ExtraError: the sizes do not multiply to the number of devices.
    """
    sizes = [config.data, config.fsdp, config.tensor]
    free = [i for i, size in enumerate(sizes) if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ExtraError(f"mesh {dict(zip(AXES, sizes, strict=True))}: sizes are positive and at most one is -1")
    fixed = math.prod(size for size in sizes if size != -1)
    if free:
        sizes[free[0]] = max(num_devices // fixed, 1)
    if math.prod(sizes) != num_devices:
        raise ExtraError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {math.prod(sizes)} devices; {num_devices} here"
        )
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over all devices (or those given), neighbours of the interconnect side by side.

    Several slices are laid out along ``data``, so that only gradients cross the network between them. ``tensor`` stays
    within a host where its chips are enough for it.

    Raises:
        ExtraError: the sizes do not multiply to the number of devices, or ``data`` is no multiple of the slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    slices = num_slices(devices)
    if shape[0] % slices:
        raise ExtraError(f"mesh.data={shape[0]} is not a multiple of the {slices} slices: set mesh.data={slices}")
    if slices > 1:
        inner = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1), devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(shape)
    if devices[0].platform == "tpu" and tensor_spans_processes(grid):
        grid = _by_host(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def num_slices(devices: Iterable[jax.Device]) -> int:
    """Slices that devices belong to; the network between them is slow."""
    return len({getattr(device, "slice_index", None) for device in devices})


def tensor_spans_processes(grid: np.ndarray) -> bool:
    """Whether the last axis of a mesh leaves a host; rows could then not be split over processes."""
    owners = np.vectorize(lambda device: device.process_index)(grid)
    return bool((owners != owners[..., :1]).any())


def _by_host(devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices slice by slice, host by host: the chips of a host (2x2 on v5e and v6e) in a ring, and hosts in lines that
    turn at the end, so that who follows is a neighbour. JAX lays an axis along a line of the torus, which leaves a
    block of 2x2 after two chips."""
    hosts: dict[tuple[int, int], list[Any]] = {}
    for device in devices:
        hosts.setdefault((getattr(device, "slice_index", 0), device.process_index), []).append(device)

    def place(host: tuple[int, int]) -> tuple[int, ...]:
        *rest, line, column = reversed([min(axis) for axis in zip(*(d.coords for d in hosts[host]), strict=True)])
        block = max(d.coords[1] for d in hosts[host]) - line + 1
        return host[0], *rest, line, -column if line // block % 2 else column

    def ring(device: Any) -> tuple[int, ...]:
        *rest, line, column = reversed(device.coords)
        return *rest, line, -column if line % 2 else column, getattr(device, "core_on_chip", 0)

    return np.array([device for host in sorted(hosts, key=place) for device in sorted(hosts[host], key=ring)])
