"""The TPU compiler, without a TPU."""

import os
import re
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from extra_jax.config import MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.processes import check_rows_split_over_processes
from extra_jax.plan.chips import Chip, find_chip
from extra_jax.plan.hlo import Collective, collectives
from extra_jax.plan.programs import Program
from extra_jax.plan.traffic import loop_traffic

# One TensorCore pair is one device of JAX on a v4 TPU VM; the description of a topology needs this option.
_MEGACORE = {"v4": {"chip_config_name": "megacore"}}
# The one machine of a v5litepod-8 or v6e-8 has all eight chips; the description of the topology makes two of it.
_EIGHT_A_HOST = ("v5e", "v6e")
_REFUSALS = {  # what the compiler says is too large for the memory of a chip
    "program": re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm"),
    "temporaries": re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds"),
}
_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one program, on one device."""

    lower_seconds: float  # tracing and lowering
    compile_seconds: float  # wall time of the compiler
    stablehlo_bytes: int  # size of the program before it
    arguments: int  # bytes
    # bytes of everything else at once: temporaries, results not written in place, machine code. Where the program is
    # refused, of what is too large
    others: int
    # what does not fit, for which the compiler stopped: all of the `program`, arguments included, its `temporaries`
    # alone, or nothing
    refused: str
    flops: float  # as the compiler counts them, each loop body once
    collectives: list[Collective]  # with how often they run
    step_bytes: float = 0.0  # of decode, what one step moves between the chip and its memory
    step_operations: int = 0  # of decode, what one step starts one after the other


def prepare() -> None:
    """Settings of this process before JAX looks for devices: no TPU is used, and several plans may run at once."""
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    # Without a TPU its library complains at length about the host that it does not run on.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    jax.config.update("jax_platforms", "cpu")
    # The TPU library reads the variable that jaxlib has read, and ends the process at a flag of the CPU that it lacks.
    jax.devices()
    if flags := os.environ.get("XLA_FLAGS"):
        os.environ["XLA_FLAGS"] = " ".join(flag for flag in flags.split() if not flag.startswith("--xla_cpu_"))


def tpu_mesh(config: MeshConfig, topology: str, slices: int) -> tuple[Mesh, Chip]:
    """A mesh over the devices of a topology that need not exist, and its chip.

    Raises:
        ExtraError: the name is unknown, the library is not installed, or the mesh does not fit, or not its hosts.
    """
    chip = find_chip(topology)
    options = _MEGACORE.get(chip.name, {}) | ({"num_slices": slices} if slices > 1 else {})
    try:
        description = topologies.get_topology_desc(topology, platform="tpu", **options)
    except Exception as error:  # of the plugin: its own types, for a missing library as for a wrong name
        hint = "" if find_spec("libtpu") else "; the TPU compiler is not installed: pip install 'extra-jax[tpu]'"
        raise ExtraError(f"topology {topology}: {str(error).splitlines()[0]}{hint}") from error
    mesh = make_mesh(config, description.devices)
    if chip.name not in _EIGHT_A_HOST or slices > 1 or mesh.size > 8:
        check_rows_split_over_processes(mesh)
    return mesh, chip


def compile_program(program: Program, mesh: Mesh, slices: int) -> Compiled:
    """Lowers and compiles; a program that is too large is a result, not an error."""
    with jax.set_mesh(mesh):
        began = time.perf_counter()
        lowered = program.lower()
        lowered_after = time.perf_counter() - began
        size = len(lowered.as_text())
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            try:
                compiled = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
            except jax.errors.JaxRuntimeError as error:
                if not (refused := refusal(str(error))):
                    raise
                what, needed = refused
                return Compiled(lowered_after, time.perf_counter() - began, size, 0, needed, what, 0.0, [])
            seconds = time.perf_counter() - began
            text = _text(Path(folder))
    memory: Any = compiled.memory_analysis()
    others = (
        memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
    sent = collectives(text, program.trips, mesh.size, slices)
    moved, started = (0.0, 0)
    if program.name.endswith("decode"):
        moved, started = loop_traffic(text, program.trips[0] if slices > 1 else None)
    return Compiled(
        lowered_after, seconds, size, memory.argument_size_in_bytes, others, "", flops, sent, moved, started
    )


def refusal(message: str) -> tuple[str, int] | None:
    """What the compiler says is too large, and its bytes; ``None`` for an error of another kind."""
    for what, pattern in _REFUSALS.items():
        if match := pattern.search(message):
            return what, int(float(match[1]) * _UNIT[match[2]])
    return None


def _text(folder: Path) -> str:
    """The optimized program, as the compiler wrote it down itself: ``compiled.as_text()`` reads it back first, which
    fails for some programs with kernels on v6e. The largest file; the others are parts."""
    return max(folder.glob("*.after_optimizations.txt"), key=lambda path: path.stat().st_size).read_text()
