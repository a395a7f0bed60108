"""The device mesh of a run."""

import math
from collections.abc import Sequence

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

    Several slices are laid out along ``data``, so that only gradients cross the network between them.

    Raises:
        ExtraError: the sizes do not multiply to the number of devices, or ``data`` is no multiple of the slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if shape[0] % slices:
        raise ExtraError(f"mesh.data={shape[0]} is not a multiple of the {slices} slices: set mesh.data={slices}")
    if slices > 1:
        inner = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1), devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
