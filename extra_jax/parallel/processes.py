"""Several processes in lockstep (docs/design.md, decision 12).

Every process runs the same program. Rows of a batch are split over processes (``share``); a decision of the host that
steers the program is taken from numbers that all processes ``agree`` on. With one process all of this is the identity.
"""

import io
import logging
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from numpy.typing import ArrayLike

from extra_jax.config import DistributedConfig, MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.parallel import watchdog
from extra_jax.parallel.mesh import tensor_spans_processes
from extra_jax.parallel.sharding import batch_sharding

T = TypeVar("T")
_JOIN_SECONDS = 900  # for which a process waits for the others: slices of a pod may start minutes apart
_logger = logging.getLogger(__name__)


def initialize(config: DistributedConfig, mesh: MeshConfig) -> None:
    """Joins the processes of the run; must come before anything touches a device.

    Raises:
        ExtraError: the processes cannot be joined, for example because this is one machine and no cluster.
    """
    wanted = mesh.emulated_cpu_devices
    if wanted and jax.config.jax_num_cpu_devices != wanted:  # type: ignore[attr-defined]  # jax sets it by name
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError as error:
            raise ExtraError(
                f"mesh.emulated_cpu_devices={wanted}: this process has used jax with another number of devices "
                "already. Start a new one (restart the kernel), or set mesh.emulated_cpu_devices=null"
            ) from error
    # Its handler of SIGTERM would swallow the signal until ours is there, after the model has been read.
    jax.config.update("jax_enable_preemption_service", False)
    if config.enabled and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(
                config.coordinator_address,
                config.num_processes,
                config.process_id,
                initialization_timeout=_JOIN_SECONDS,
            )
        except Exception as error:
            alone = config.enabled == "auto" and config.coordinator_address is None
            if alone and isinstance(error, ValueError) and "coordinator_address" in str(error):  # of no cluster at all
                _logger.info("distributed.enabled=auto: no cluster is detected, so this process runs alone")
                return
            raise ExtraError(
                f"distributed.enabled={str(config.enabled).lower()}, but the processes cannot be joined: "
                f"{str(error).rstrip('.')}. On a single "
                "machine set distributed.enabled=false; on a cluster that JAX does not detect (it knows Cloud TPU, GKE "
                "and SLURM) give distributed.coordinator_address=HOST:PORT, num_processes and process_id"
            ) from error
    watchdog.start()


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
            watchdog.fail(f"{error}" or repr(error), 2)  # before the others say that they have heard of it
    message = gather_objects(["" if failure is None else f"{failure}" or repr(failure)])[0]
    if failure is not None:
        raise failure
    if message:
        raise ExtraError(f"process 0 failed: {message}")


def check_rows_split_over_processes(mesh: Mesh) -> None:
    """Refuses a mesh whose ``tensor`` axis spans processes: rows could then not be split over them."""
    if tensor_spans_processes(mesh.devices):
        first = mesh.devices.flat[0].process_index
        one_host = sum(device.process_index == first for device in mesh.devices.flat)
        raise ExtraError(
            f"mesh.tensor={mesh.shape['tensor']} spans processes; keep it within the {one_host} devices of one host"
        )


def to_global(mesh: Mesh, rows: Any, row_axis: int = 0) -> Any:
    """Host arrays with this process's rows first -> global arrays with rows over every data axis.

    Args:
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
    watchdog.meet()
    raw = values.reshape(len(values), -1).view(np.uint8)  # as numbers, JAX would round 64 bits to 32
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(raw, tiled=True))
    return gathered.view(values.dtype).reshape(-1, *values.shape[1:])


def gather_objects(items: Sequence[T]) -> list[T]:
    """The host values of all processes (whatever pickles), joined in process order, on every host."""
    if jax.process_count() == 1:
        return list(items)
    stream = io.BytesIO(allgather_rows(np.frombuffer(pickle.dumps(list(items)), np.uint8)).tobytes())
    return [item for _ in range(jax.process_count()) for item in pickle.load(stream)]


def allgather_rows(values: np.ndarray) -> np.ndarray:
    """As ``allgather``, where the processes may have different numbers of rows."""
    if jax.process_count() == 1:
        return values
    counts = allgather(np.array([len(values)]))
    most = 1 << max(int(counts.max()) - 1, 0).bit_length()  # few sizes, as each is a program
    padded = np.zeros((most, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    parts = np.split(allgather(padded), len(counts))
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=False)])


def agree(numbers: ArrayLike, rule: Callable[..., np.ndarray] = np.max) -> np.ndarray:
    """Whole numbers or flags that every process brings -> the same on all of them, to steer the program with.

    Args:
        numbers: of this process, of the same shape on all.
        rule: what becomes of the numbers of all processes, over ``axis`` 0: the largest (``np.max``; of flags, whether
            one says yes), the smallest (``np.min``; whether all say yes).
    """
    return rule(allgather(np.asarray(numbers, np.int64)[None]), axis=0)


def share(count: int, index: int | None = None, processes: int | None = None) -> range:
    """Which of ``count`` items a process takes: contiguous, in process order; sizes differ by at most one.

    Args:
        index: the process; this one by default.
        processes: how many there are; those of the run by default.
    """
    index = jax.process_index() if index is None else index
    processes = jax.process_count() if processes is None else processes
    return range(index * count // processes, (index + 1) * count // processes)


def filled_share(count: int, index: int | None = None, processes: int | None = None) -> list[int]:
    """As ``share``, but every process takes equally many and the last index fills up, so that
    ``allgather(...)[:count]`` is the whole in order."""
    size = -(-count // (jax.process_count() if processes is None else processes))
    start = (jax.process_index() if index is None else index) * size
    return [min(i, count - 1) for i in range(start, start + size)]
