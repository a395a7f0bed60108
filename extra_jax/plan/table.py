"""A plan for people: one table and one sentence; and for scripts: JSON."""

from collections import defaultdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from extra_jax.plan.hlo import KINDS, Collective
from extra_jax.plan.roofline import DCN_SECONDS, HOST_SECONDS, ICI_SECONDS, OPERATION_SECONDS, Phase
from extra_jax.plan.verdict import Plan

_COLUMNS = ["temporary", "total", "of chip", "TFLOP", "GB mem", "GB links", "seconds", "bound", "compiled"]
_SHORT = dict(zip(KINDS, ("AG", "AR", "RS", "A2A", "CP"), strict=True))


def show(plan: Plan, console: Console) -> None:
    """Prints the table, what it rests on, and the verdict."""
    run = plan.run
    kinds = [kind for kind in run.memory if any(kind in memory.kinds for memory in plan.memory.values())]
    table = Table(title=_title(plan), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("GiB of memory", no_wrap=True)
    for name in (*kinds, *_COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    for program in run.programs:
        name = program.name
        memory, compiled = plan.memory[name], plan.compiled[name]
        style = "red" if compiled.refused or memory.total > plan.limit else "green"
        table.add_row(
            f"{program.name} x {program.runs:,}" if program.runs > 1 else program.name,
            *(_gib(memory.kinds[kind]) if kind in memory.kinds else "" for kind in kinds),
            _gib(memory.temporaries),
            f"[{style}]{_gib(memory.total)}[/]",
            f"[{style}]{memory.total / plan.capacity:.0%}[/]",
            *(_work(plan.phases[name]) if name in plan.phases else [""] * 5),
            "refused" if compiled.refused else f"{compiled.compile_seconds:.0f} s",
        )
    table.add_section()
    table.add_row("a step, at best", *[""] * (len(kinds) + 6), _short(plan.seconds))
    console.print(table)
    for program in run.programs:
        if collectives := plan.compiled[program.name].collectives:
            decodes = program.name.endswith("decode")
            where = "in the loop over tokens" if decodes else "in loops over micro-batches and chunks"
            console.print(f"A call of {program.name}: {_collectives(collectives, where)}", style="dim", soft_wrap=True)
    if plan.decode_traffic:
        moved = plan.compiled["decode"].step_bytes / 1e9
        console.print(
            f"A decode step moves {moved:.3g} GB of memory, {plan.decode_traffic:.2f} times the weights and a full "
            "cache, as counted in the compiled program.",
            style="dim",
            soft_wrap=True,
        )
    console.print(_basis(plan), style="dim", soft_wrap=True)
    console.print(plan.sentence(), style="bold green" if plan.status == 0 else "bold red", soft_wrap=True)


def _basis(plan: Plan) -> str:
    """What the numbers rest on."""
    work, chip = plan.run.workload, plan.chip
    return (
        f"A step: {work.prompts:,} prompts of {work.prompt_length:,} tokens and {work.completions:,} completions of "
        f"{work.completion_length:,} on average (plan.mean_*_length); {work.updates} updates of {work.micro_batches:,} "
        f"micro-batches; {work.slots:,} slots. What takes no seconds runs beside steps, in evaluations and saves. All "
        "numbers are for one "
        f"{'chip' if chip.devices == 1 else 'core, of which a chip has two'}.\n"
        "Memory, links and compile time: the TPU compiler. TFLOP and GB of memory traffic: formulas, because the "
        "compiler counts each loop once; of decode what the compiled program moves.\n"
        f"Seconds: the longest of compute, memory and links at {chip.flops / 1e12:,.0f} TFLOP/s, "
        f"{chip.hbm_bandwidth / 1e9:,.0f} GB/s and {chip.ici_bandwidth / 1e9:,.0f} GB/s a chip ({chip.source}), and "
        f"{sum(phase.latency for phase in plan.phases.values()):.3g} s of starting and waiting (our estimates: "
        f"{OPERATION_SECONDS * 1e6:g} us an operation of decode, {ICI_SECONDS * 1e6:g} a collective, "
        f"{DCN_SECONDS * 1e6:g} between slices, {HOST_SECONDS * 1e3:g} ms a call)."
    )


def to_json(plan: Plan) -> dict[str, Any]:
    """Everything that the table shows, in bytes, FLOPs and seconds on one device."""
    programs = {}
    for program in plan.run.programs:
        name = program.name
        memory, compiled = plan.memory[name], plan.compiled[name]
        programs[program.name] = {
            "runs": program.runs,
            "hbm_bytes": {**memory.kinds, "temporaries": memory.temporaries, "total": memory.total},
            "refused": bool(compiled.refused),
            "compiler_flops_loops_once": compiled.flops,
            **(_phase_json(plan.phases[name]) if name in plan.phases else {}),
            "lower_seconds": compiled.lower_seconds,
            "compile_seconds": compiled.compile_seconds,
            "stablehlo_bytes": compiled.stablehlo_bytes,
            "step_bytes": compiled.step_bytes,
            "step_operations": compiled.step_operations,
            "collectives": _grouped(compiled.collectives),
        }
    return {
        "topology": plan.topology,
        "slices": plan.slices,
        "chips": plan.chips,
        "mesh": plan.config.mesh.model_dump(exclude={"emulated_cpu_devices"}),
        "micro_batch_rows": plan.config.train.micro_batch_rows,
        "slots": plan.config.rollout.slots,
        "workload": vars(plan.run.workload),
        "hbm_capacity_bytes": plan.capacity,
        "hbm_limit_bytes": plan.limit,
        "programs": programs,
        "decode_step_bytes": plan.compiled["decode"].step_bytes if "decode" in plan.compiled else None,
        "step_seconds": plan.seconds,
        "tokens_per_second": plan.tokens_per_second,
        "tokens_per_chip_hour": plan.tokens_per_chip_hour,
        "fits": plan.fits,
        "status": plan.status,
        "verdict": plan.sentence(),
        "chip": vars(plan.chip),
    }


def _phase_json(phase: Phase) -> dict[str, float | str]:
    return {
        "flops": phase.flops,
        "memory_traffic_bytes": phase.hbm_bytes,
        "ici_bytes": phase.ici_bytes,
        "dcn_bytes": phase.dcn_bytes,
        "seconds": phase.seconds,
        "latency_seconds": phase.latency,
        "bound": phase.bound,
    }


def _work(phase: Phase) -> list[str]:
    """What a step does in all calls of a program."""
    sent = phase.ici_bytes + phase.dcn_bytes
    numbers = (phase.flops / 1e12, phase.hbm_bytes / 1e9, sent / 1e9, phase.seconds)
    return [*map(_short, numbers), phase.bound]


def _title(plan: Plan) -> str:
    model = plan.config.model.path or plan.config.model.preset
    slices = f" x {plan.slices} slices" if plan.slices > 1 else ""
    mesh = " x ".join(f"{name} {size}" for name, size in plan.axes.items())
    return f"{model} on {plan.topology}{slices}: {mesh}"


def _short(number: float) -> str:
    """Three significant digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _grouped(collectives: list[Collective]) -> list[dict[str, Any]]:
    """Collectives of a call by kind, by whether they are inside of loops over data and by network."""
    groups: dict[tuple[str, bool, bool], list[Collective]] = defaultdict(list)
    for one in collectives:
        groups[one.kind, one.loops > 0, one.crosses_slices].append(one)
    return [
        {
            "kind": kind,
            "in_data_loop": inside,
            "crosses_slices": crosses,
            "count": sum(one.runs for one in members),
            "bytes": sum(one.bytes * one.runs for one in members),
        }
        for (kind, inside, crosses), members in sorted(groups.items(), key=lambda item: KINDS.index(item[0][0]))
    ]


def _collectives(collectives: list[Collective], inside: str) -> str:
    """One line: how many of each kind in a call, and how much they send."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for group in _grouped(collectives):
        network = " between slices" if group["crosses_slices"] else ""
        text = f"{group['count']:,} {_SHORT[group['kind']]} {group['bytes'] / 1e9:,.3g} GB{network}"
        parts[group["in_data_loop"]].append(text)
    texts = [f"{inside} {', '.join(parts[True])}"] if parts[True] else []
    texts += [f"outside {', '.join(parts[False])}" if parts[True] else ", ".join(parts[False])] if parts[False] else []
    return "; ".join(texts)
