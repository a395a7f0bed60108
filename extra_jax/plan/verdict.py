"""Whether a run fits. If it does not, which program is too large, which setting to change, and to what value."""

from dataclasses import dataclass

from extra_jax.config import Config
from extra_jax.plan.chips import Chip
from extra_jax.plan.compiler import Compiled
from extra_jax.plan.programs import Program, Run
from extra_jax.plan.roofline import Phase

_WITH_SLOTS = ("prefill", "load", "clone", "resize", "select", "decode")
SLOT_PROGRAMS = (*_WITH_SLOTS, *(f"eval {name}" for name in _WITH_SLOTS))
"""Whose memory grows with ``rollout.slots``."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a program runs."""

    kinds: dict[str, int]  # what lives across programs (`programs.KINDS`)
    temporaries: int  # everything else

    @property
    def total(self) -> int:
        return sum(self.kinds.values()) + self.temporaries


def program_memory(program: Program, compiled: Compiled, run: Run) -> Memory:
    """What is alive while a program runs; padding of its arguments counts as temporary."""
    kinds = {kind: run.memory[kind] for kind in program.alive if run.memory[kind]}
    known = sum(run.memory[kind] for kind in program.arguments)
    if compiled.refused == "program":
        return Memory(kinds, max(compiled.others - known, 0))
    if compiled.refused:
        return Memory(kinds, compiled.others)
    results = sum(run.memory[kind] for kind in program.results)
    padding = max(compiled.arguments - known, 0)
    return Memory(kinds, max(compiled.others - results, 0) + padding)


@dataclass(frozen=True)
class Plan:
    """Everything that a plan says of a run; bytes and seconds are those of one device.

    ``chips`` counts those of all slices, ``axes`` are the sizes of the mesh axes, and the last three are by program.
    """

    config: Config
    topology: str
    slices: int
    chips: int
    chip: Chip
    axes: dict[str, int]
    run: Run
    compiled: dict[str, Compiled]
    memory: dict[str, Memory]
    phases: dict[str, Phase]

    @property
    def capacity(self) -> int:
        """Bytes of a device."""
        return self.chip.hbm_bytes // self.chip.devices

    @property
    def limit(self) -> int:
        """Bytes of a device that the run may use."""
        return int(self.capacity * self.config.plan.hbm_fraction)

    @property
    def decode_traffic(self) -> float:
        """Bytes that a decode step moves over those of the sampler's weights and the cache, which it has to read; 0
        where it was not compiled or refused."""
        moved = self.compiled["decode"].step_bytes if "decode" in self.compiled else 0.0
        return moved / (self.run.memory["sampler"] + self.run.memory["cache"])

    @property
    def fullest(self) -> str:
        """The program that needs most memory."""
        return max(self.memory, key=lambda name: self.memory[name].total)

    @property
    def fits(self) -> bool:
        refused = any(compiled.refused for compiled in self.compiled.values())
        return not refused and self.memory[self.fullest].total <= self.limit

    @property
    def seconds(self) -> float:
        """Of a step, at best; not a number that means anything where a program was refused."""
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens, all devices together."""
        return self.run.workload.completions * self.run.workload.completion_length / self.seconds

    @property
    def tokens_per_chip_hour(self) -> float:
        return self.tokens_per_second * 3600 / self.chips

    @property
    def status(self) -> int:
        """Exit status: 1 where the run does not fit."""
        return 0 if self.fits else 1

    def sentence(self) -> str:
        """The verdict."""
        where = f"{self.chips} {self.chip.name} chips" + (f" in {self.slices} slices" if self.slices > 1 else "")
        need, limit = self.memory[self.fullest].total / 2**30, self.limit / 2**30
        if not self.fits:
            return (
                f"Does not fit on {where}: {self.fullest} needs {need:.1f} GiB of the {limit:.1f} GiB that a device "
                f"may use; {self._remedy()}."
            )
        slowest = max(self.phases, key=lambda name: self.phases[name].seconds)
        share = self.phases[slowest].seconds / self.seconds
        return (
            f"Fits on {where}: {self.fullest} needs most, {need:.1f} of {limit:.1f} GiB; a step takes at best "
            f"{self.seconds:,.3g} s, {share:.0%} of it {slowest} (bound by {self.phases[slowest].bound}), "
            f"{self.tokens_per_second:,.0f} completion tokens a second, {self.tokens_per_chip_hour:,.0f} a chip-hour."
        )

    def _remedy(self) -> str:
        """Which setting, and how far; in the order in which it costs least."""
        memory, over = self.memory[self.fullest], self.memory[self.fullest].total - self.limit
        t, work = self.config.train, self.run.workload
        if self.fullest in ("score", "update"):
            rows = t.micro_batch_rows
            needed = rows * max(memory.temporaries - over, 0) / max(memory.temporaries, 1)
            if rows > 1 and needed >= 1:
                return f"lower train.micro_batch_rows from {rows} to about {int(needed)}"
            if self.config.model.remat != "full":
                return f"set model.remat=full (now {self.config.model.remat})"
            if rows > 1:
                return f"lower train.micro_batch_rows from {rows} to 1, and see whether that is enough"
        if self.fullest in SLOT_PROGRAMS:
            grows = sum(size for kind, size in memory.kinds.items() if kind.endswith("cache"))
            if self.fullest.endswith(("resize", "select")):  # their temporaries are another cache
                grows += memory.temporaries
            slots = work.slots * (grows - over) / grows
            if slots >= self.chips:
                return f"lower rollout.slots from {work.slots} to about {int(slots)}"
        factor = memory.total / self.limit
        split = "" if self.fullest == "update" else " and raise mesh.tensor, which splits the sampler's weights"
        return f"use about {factor:.1f} times as many chips, or a chip with more memory{split}"
