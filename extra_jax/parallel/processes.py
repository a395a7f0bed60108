"""Several processes in lockstep (docs/design.md, decision 12).

Every process runs the same program. Rows of a batch are split over processes; host-side decisions that
steer the program are taken from values that all processes agree on (``allgather``). With one process
everything here is the identity.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from extra_jax.config import DistributedConfig, MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.parallel.sharding import batch_sharding


def initialize(config: DistributedConfig, mesh: MeshConfig) -> None:
    """Joins the processes of the run; must come before anything touches a device.

    Raises:
        ExtraError: the processes cannot be joined, for example because this is one machine and no cluster.
    """
    if mesh.emulated_cpu_devices:
        jax.config.update("jax_num_cpu_devices", mesh.emulated_cpu_devices)
    if config.enabled and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(config.coordinator_address, config.num_processes, config.process_id)
        except Exception as error:
            raise ExtraError(
                f"distributed.enabled=true, but the processes cannot be joined: {str(error).rstrip('.')}. On a single "
                "machine set distributed.enabled=false; on a cluster that JAX does not detect (it knows Cloud TPU, GKE "
                "and SLURM) give distributed.coordinator_address=HOST:PORT, num_processes and process_id"
            ) from error


def is_main() -> bool:
    """Whether this process writes logs and records."""
    return jax.process_index() == 0


def on_main(act: Callable[[], object]) -> None:
    """Process 0 acts while the others wait; if it fails, all of them end, instead of waiting for it for ever.

    Raises:
        ExtraError: on the other processes, with what process 0 failed of; process 0 raises the error itself.
    """
    failure: Exception | None = None
    if is_main():
        try:
            act()
        except Exception as error:
            failure = error
    message = gather_texts(["" if failure is None else f"{failure}" or repr(failure)])[0]
    if failure is not None:
        raise failure
    if message:
        raise ExtraError(f"process 0 failed: {message}")


def check_rows_split_over_processes(mesh: Mesh) -> None:
    """Refuses a mesh whose ``tensor`` axis spans processes: rows could then not be split over them."""
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    if (owners != owners[..., :1]).any():
        raise ExtraError(
            f"mesh.tensor={mesh.shape['tensor']} spans processes; keep it within the "
            f"{jax.local_device_count()} devices of one host"
        )


def to_global(mesh: Mesh, rows: Any, row_axis: int = 0) -> Any:
    """Host arrays with this process's rows first -> global arrays with rows over every data axis.

    Args:
        mesh: the mesh of the run.
        rows: pytree of numpy arrays with ``R_local`` rows on ``row_axis``; every process gives equally many.
        row_axis: which axis the rows are on.
    """
    sharding = batch_sharding(mesh, row_axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), rows)


def to_local(rows: Any) -> Any:
    """Global arrays with rows on axis 0 -> numpy arrays with this process's rows, in their order.

    What a program returns may lie anywhere on the mesh, as XLA sees fit; it is first laid out like its input.
    """

    def local(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return np.asarray(x)
        assert isinstance(x.sharding, NamedSharding)  # every program of a run works on its mesh
        x = jax.device_put(x, batch_sharding(x.sharding.mesh))
        shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    return jax.tree.map(local, rows)


def allgather(values: np.ndarray) -> np.ndarray:
    """``[n, ...]`` of each process -> ``[processes * n, ...]``, in process order, on every host; exact."""
    values = np.ascontiguousarray(values)
    if jax.process_count() == 1:
        return values
    raw = values.reshape(len(values), -1).view(np.uint8)  # as numbers, JAX would round 64 bits to 32
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(raw, tiled=True))
    return gathered.view(values.dtype).reshape(-1, *values.shape[1:])


def gather_texts(texts: Sequence[str]) -> list[str]:
    """The texts of all processes, in process order, on every host."""
    if jax.process_count() == 1:
        return list(texts)
    raw = np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)
    sizes = allgather(np.array([len(raw)], np.int64))
    padded = np.zeros((1, sizes.max()), np.uint8)
    padded[0, : len(raw)] = raw
    parts = zip(allgather(padded), sizes, strict=True)
    return [text for part, size in parts for text in json.loads(part[:size].tobytes())]


def allgather_rows(values: np.ndarray) -> np.ndarray:
    """As ``allgather``, where the processes may have different numbers of rows."""
    if jax.process_count() == 1:
        return values
    counts = allgather(np.array([len(values)]))
    padded = np.zeros((counts.max(), *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    parts = np.split(allgather(padded), len(counts)) if counts.max() else [padded]
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=False)])


def process_slice(total: int) -> list[int]:
    """This process's contiguous share of ``range(total)``.

    Every process gets equally many; the last index fills up, so ``allgather(...)[:total]`` is the whole in order.
    """
    size = -(-total // jax.process_count())
    start = jax.process_index() * size
    return [min(index, total - 1) for index in range(start, start + size)]
