"""Pairs of processes that do nothing but meet, until one of a pair is disturbed; a pair for each kind of trouble.

python disturbed_process.py FOLDER TROUBLE...

Prints the exit statuses by trouble as JSON; what process ``I`` said is in ``FOLDER/TROUBLE.I``.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from extra_jax.cli.boundary import guarded
from extra_jax.config import DistributedConfig, MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.parallel import shared
from extra_jax.parallel.mesh import AXES
from extra_jax.parallel.processes import (
    agree,
    allgather_rows,
    gather_objects,
    initialize,
    on_main,
    to_global,
    to_local,
)


def work(address: str, index: int, trouble: str, folder: Path) -> int:
    settings = DistributedConfig(enabled=True, coordinator_address=address, num_processes=2, process_id=index)
    initialize(settings, MeshConfig(emulated_cpu_devices=2))
    rows_of_an_interleaved_mesh(index)
    if trouble == "unshared":
        shared._SECONDS = 2
        shared.check_shared(folder / f"of_{index}")
    for meeting in range(10_000):
        assert agree(meeting) == meeting
        if meeting == 20 and trouble == "disk":
            on_main(full)
        if meeting == 20 and index == 1:
            disturb(trouble)
    return 0


def rows_of_an_interleaved_mesh(index: int) -> None:
    """Rows stay with their process where its devices are no block of the mesh, as on a slice of v5e."""
    order = sorted(jax.devices(), key=lambda device: (device.id % 2, device.process_index))
    mesh = Mesh(np.array(order).reshape(1, 4, 1), AXES)
    assert [device.process_index for device in mesh.devices.flat] == [0, 1, 0, 1]
    rows = np.arange(6, dtype=np.int32).reshape(2, 3) + 100 * index
    on_devices = to_global(mesh, rows)
    assert on_devices.shape == (4, 3)
    assert (to_local(jax.jit(lambda x: x + 1)(on_devices)) == rows + 1).all()
    words = [f"{index}" * size for size in range(3 + 2 * index)]
    assert gather_objects(words) == ["", "0", "00", "", "1", "11", "111", "1111"]
    assert allgather_rows(np.arange(5 * index)).tolist() == [0, 1, 2, 3, 4]
    assert allgather_rows(np.zeros((0, 2))).shape == (0, 2)


def full() -> None:
    raise ExtraError("the disk is full")


def disturb(trouble: str) -> None:
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "error":
        raise ExtraError("the file is missing here")
    if trouble == "bug":
        raise ZeroDivisionError("nobody expected this")


def start(address: str, index: int, trouble: str, folder: Path) -> int:
    """A process in a fork, which need not import anything."""
    if pid := os.fork():
        return pid
    log = os.open(folder / f"{trouble}.{index}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(guarded("test", [], lambda: work(address, index, trouble, folder), lambda: str(folder)))


def main() -> None:
    folder, troubles = Path(sys.argv[1]), sys.argv[2:]
    processes = {}
    for trouble in troubles:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        processes[trouble] = [start(address, index, trouble, folder) for index in range(2)]
    ended = {
        trouble: [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pair]
        for trouble, pair in processes.items()
    }
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
