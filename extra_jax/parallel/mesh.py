"""The device mesh of a run."""

import math
from collections.abc import Sequence

import jax
import numpy as np
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
    return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over all devices (or those given), neighbours of the interconnect side by side."""
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    if len(devices) == len(jax.devices()):
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
