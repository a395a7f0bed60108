"""``extra-jax plan``."""

import dataclasses
import json
from pathlib import Path

from rich.console import Console

from extra_jax.config import Config
from extra_jax.model.config import PRESETS, Qwen3Config, model_folder, preset
from extra_jax.parallel.sharding import batch_ways
from extra_jax.plan.compiler import compile_program, prepare, tpu_mesh
from extra_jax.plan.programs import describe_run
from extra_jax.plan.roofline import phase, step_work
from extra_jax.plan.search import largest_settings
from extra_jax.plan.table import show, to_json
from extra_jax.plan.verdict import Plan, program_memory

_WIDTH = 180  # of output that is not a terminal


def plan(config: Config, topology: str, slices: int = 1, search: bool = False, as_json: bool = False) -> int:
    """Compiles every program of the run and prints what it needs; returns the exit status.

    Args:
        topology: ``CHIP:AxB``, of one slice.
        slices: how many of them.
        search: first find the largest ``train.micro_batch_rows`` and ``rollout.slots`` that fit.
        as_json: print JSON instead of the table.
    """
    prepare()
    console = Console(width=None if Console().is_terminal else _WIDTH)
    progress = Console(stderr=True)
    if search:
        shards = batch_ways(tpu_mesh(config.mesh, topology, slices)[0])
        config = largest_settings(
            config, shards, lambda changed, only: make_plan(changed, topology, slices, only), progress.print
        )
    result = make_plan(config, topology, slices)
    if as_json:
        print(json.dumps(to_json(result), indent=2))
    else:
        show(result, console)
    return result.status


def make_plan(config: Config, topology: str, slices: int = 1, only: tuple[str, ...] = ()) -> Plan:
    """A plan of the programs named, or of all.

    Raises:
        ExtraError: the topology or the mesh is impossible, or the shape of the model is not known.
    """
    shape = model_shape(config)
    mesh, chip = tpu_mesh(config.mesh, topology, slices)
    run = describe_run(config, shape, mesh)
    config = run.config
    if only:
        run = dataclasses.replace(run, programs=[program for program in run.programs if program.name in only])
    axes = dict(mesh.shape)
    work = step_work(config, shape, run.workload, axes)
    compiled = {program.name: compile_program(program, mesh, slices) for program in run.programs}
    needed = {program.name: program_memory(program, compiled[program.name], run) for program in run.programs}
    if "decode" in compiled and not compiled["decode"].refused:  # it reads the room of a row, not what is in it
        moved = run.workload.decode_calls * run.workload.chunk * compiled["decode"].step_bytes
        work["decode"] = dataclasses.replace(work["decode"], hbm_bytes=moved)
    phases = {
        program.name: phase(
            work[program.name], chip, compiled[program.name].collectives, program.runs,
            compiled[program.name].step_operations * run.workload.chunk,
        )
        for program in run.programs
        if program.runs
    }  # fmt: skip
    return Plan(config, topology, slices, mesh.size // chip.devices, chip, axes, run, compiled, needed, phases)


def model_shape(config: Config) -> Qwen3Config:
    """Shape of the model. A missing folder that is called like a preset (``Qwen3-1.7B``) has that shape."""
    path = config.model.path
    if path is None:
        return preset(config.model.preset)
    name = Path(path).name.removeprefix("Qwen3-").removeprefix("DeepSeek-").removesuffix("-Instruct")
    if not Path(path).expanduser().is_dir() and name in PRESETS:
        return preset(name)
    return Qwen3Config.from_folder(model_folder(path))
