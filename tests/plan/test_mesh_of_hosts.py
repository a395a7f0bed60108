"""Meshes over devices that need not exist, with the coordinates and hosts of real slices."""

import numpy as np
import pytest
from jax.experimental import topologies

from extra_jax.config import MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.parallel.mesh import make_mesh
from extra_jax.plan.compiler import prepare, tpu_mesh

pytest.importorskip("libtpu", reason="the TPU compiler describes the slices")


def devices(topology: str, slices: int = 1) -> list:
    prepare()
    options = {"num_slices": slices} if slices > 1 else {}
    return topologies.get_topology_desc(topology, platform="tpu", **options).devices


@pytest.mark.parametrize(
    ("topology", "slices", "tensor"),
    [
        ("v5e:4x4", 1, 4),
        ("v6e:4x4", 1, 4),
        ("v5e:4x8", 1, 4),
        ("v5p:2x2x4", 1, 4),
        ("v5e:4x4", 1, 2),
        ("v5e:4x4", 2, 4),
    ],
)
def test_tensor_parallelism_stays_within_a_host_and_its_chips_are_neighbours(
    topology: str, slices: int, tensor: int
) -> None:
    mesh = make_mesh(MeshConfig(data=slices, fsdp=-1, tensor=tensor), devices(topology, slices))
    assert mesh.devices.size == len({device.id for device in mesh.devices.flat})
    for group in mesh.devices.reshape(-1, tensor):
        assert len({(getattr(device, "slice_index", 0), device.process_index) for device in group}) == 1
        steps = [np.abs(np.subtract(a.coords, b.coords)).sum() for a, b in zip(group, np.roll(group, 1), strict=True)]
        assert max(steps) == 1 or topology.startswith("v5p"), "a ring of neighbours where we lay it out ourselves"
    for index, part in enumerate(mesh.devices):
        assert {getattr(device, "slice_index", 0) for device in part.flat} == {index}


def test_the_hosts_of_a_mesh_follow_each_other_as_neighbours() -> None:
    mesh = make_mesh(MeshConfig(fsdp=-1, tensor=4), devices("v5e:4x8"))
    origins = [np.min([device.coords for device in group], axis=0) for group in mesh.devices.reshape(-1, 4)]
    assert {np.abs(a - b).sum() for a, b in zip(origins[1:], origins[:-1], strict=True)} == {2}, "blocks of 2x2"


def test_a_plan_refuses_the_mesh_that_a_run_refuses() -> None:
    with pytest.raises(ExtraError, match="spans processes; keep it within the 4 devices of one host"):
        tpu_mesh(MeshConfig(fsdp=-1, tensor=8), "v5e:4x4", 1)
    assert tpu_mesh(MeshConfig(fsdp=1, tensor=8), "v5e:2x4", 1)[0].shape["tensor"] == 8, "one machine of eight chips"
