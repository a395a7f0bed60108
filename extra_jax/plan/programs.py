"""The programs of a run, described by shapes alone: the functions that training jits, for devices that need not be
there."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from extra_jax.config import Config
from extra_jax.explore.build import needs_hidden_states
from extra_jax.learn.batch import FEWEST_SPANS, MicroBatches, TokenBatch
from extra_jax.learn.grpo import Learner
from extra_jax.learn.packing import bucket, shares_contexts
from extra_jax.learn.score import chunk_length
from extra_jax.learn.update import abstract_state
from extra_jax.model.config import Qwen3Config
from extra_jax.model.fingerprint import checksum_program
from extra_jax.model.load import abstract_model
from extra_jax.parallel.reshard import reshard_program
from extra_jax.parallel.sharding import ROLLOUT, TRAIN, batch_sharding, batch_ways, param_shardings, replicated
from extra_jax.plan.sampler import AbstractSampler, sampler_programs
from extra_jax.plan.workload import Workload, describe_workload
from extra_jax.rollout.programs import COPY_ROWS, prefill_rows
from extra_jax.runtime import (
    device_bytes,
    eval_sampling,
    sampler_sizes,
    sampling_params,
    scans_layers,
    weight_bytes,
)

KINDS = ("parameters", "optimizer", "reference", "sampler", "cache", "eval cache", "batches")
_TRAINING = ("parameters", "optimizer", "reference")  # alive from the first step to the last


@dataclass(frozen=True)
class Program:
    """One jitted function of the run."""

    name: str
    lower: Callable[[], jax.stages.Lowered]  # traces and lowers it for the devices of the mesh
    runs: int  # calls a step; 0 of what runs beside steps, in evaluations and saves
    trips: tuple[int, ...]  # how often its loops over data run in a call, from the outermost inwards
    arguments: tuple[str, ...]  # kinds of memory that it is given
    alive: tuple[str, ...]  # kinds of memory that exist while it runs
    results: tuple[str, ...] = ()  # kinds of memory that it makes anew


@dataclass(frozen=True)
class Run:
    """Everything that a plan compiles and adds up."""

    config: Config  # with the slots and the chunk that a run chooses where it leaves them open
    programs: list[Program]  # in the order of a step, then those beside steps
    memory: dict[str, int]  # bytes of each of `KINDS` on a device
    workload: Workload  # counts of a step


def describe_run(config: Config, shape: Qwen3Config, mesh: Mesh) -> Run:
    """Every program that a training starts, on a mesh over any devices, and what stays in memory between them.

    Before the first step less is alive than in it: weights are read into their places, optimizer and reference follow.

    Raises:
        ExtraError: an axis that the mesh does not divide.
    """

    def place(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return leaf.update(sharding=sharding)

    given, config = config, with_sampler_defaults(config, shape, mesh)
    work = describe_workload(config, shape, batch_ways(mesh))
    graphdef, abstract = abstract_model(shape, config.model)
    params = jax.tree.map(place, abstract, param_shardings(abstract, mesh, TRAIN))
    learner = Learner(graphdef, config, mesh)
    state = abstract_state(params, learner.optimizer, mesh)
    batches = _batches(config, work, mesh)
    unscored = batches._replace(rows=batches.rows._replace(old_logprobs=None, ref_logprobs=None))

    scan = scans_layers(shape)
    sync = reshard_program(params, mesh, ROLLOUT, config.rollout.dtype, unstack=not scan)
    weights = jax.eval_shape(sync, params)
    weights = jax.tree.map(place, weights, param_shardings(weights, mesh, ROLLOUT))
    sampler = sampler_programs(config, shape, mesh, weights, work.slots, work.chunk, scan=scan)

    early = needs_hidden_states(config)  # novelty needs them while the sampler's weights are still there
    spans = (_spans(config, batches, mesh),) if early else ()
    programs = [
        Program(
            "weight sync", lambda: sync.lower(params), 1, (), ("parameters",), (*_TRAINING, "sampler"), ("sampler",)
        ),
        *_sampling(sampler, _calls(config, work, batch_ways(mesh)), work.chunk),
        *_verifying(config, shape, work, sampler, batch_ways(mesh)),
        Program(
            "score",
            lambda: learner.score.lower(params, unscored, *spans),
            work.scorings,
            (work.micro_batches, work.head_chunks),
            ("parameters", "batches"),
            (*_TRAINING, *(("sampler",) if early else ()), "batches"),
        ),
        Program(
            "update",
            lambda: learner.update.program.lower(state, batches),
            work.updates,
            (work.micro_batches, work.head_chunks),
            ("parameters", "optimizer", "batches"),
            (*_TRAINING, "batches"),
        ),
    ]
    programs = [program for program in programs if program.runs]
    memory = {
        **weight_bytes(config, shape, mesh),
        "cache": device_bytes(sampler.slots),
        "batches": device_bytes(batches) * work.mini_batches,
    }
    if config.benchmarks:
        drawn = eval_sampling(given)
        slots, chunk = sampler_sizes(given, shape, mesh, drawn)
        slots = -(-slots // batch_ways(mesh)) * batch_ways(mesh)
        measuring = sampler_programs(config, shape, mesh, weights, slots, chunk, scan=scan, params=drawn)
        memory["eval cache"] = device_bytes(measuring.slots)
        programs += _evaluating(measuring, chunk, sampler.slots, drawn == sampling_params(config))
    arrays = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(state))}
    saved = ("parameters", "optimizer")
    programs.append(Program("checksums", lambda: checksum_program.lower(arrays), 0, (), saved, _TRAINING))
    return Run(config, programs, memory, work)


def with_sampler_defaults(config: Config, shape: Qwen3Config, mesh: Mesh) -> Config:
    """The slots and the chunk that a run chooses where the configuration leaves them open."""
    r = config.rollout
    slots, chunk = sampler_sizes(config, shape, mesh, sampling_params(config))
    return config.model_copy(update={"rollout": r.model_copy(update={"slots": slots, "chunk": chunk})})


def _calls(config: Config, work: Workload, shards: int) -> dict[str, int]:
    """How often a step calls each program of the sampler."""
    at_once = prefill_rows(config.rollout.max_prompt_length, work.slots) * shards
    prefills, clones = -(-work.prompts // at_once), -(-work.completions // (COPY_ROWS * shards))
    copies = {"prefill": prefills, "load": prefills, "clone": clones}
    return {**copies, "resize": 1, "select": 1, "decode": work.decode_calls}


def _sampling(sampler: AbstractSampler, calls: dict[str, int], chunk: int, prefix: str = "") -> list[Program]:
    """Programs that work on a cache; their names, and that of the cache, begin with ``prefix``."""
    cache = f"{prefix}cache"
    alive = (*_TRAINING, "sampler", cache)
    given = {"prefill": ("sampler",), "resize": (), "decode": ("sampler", cache)}
    return [
        Program(
            prefix + name,
            getattr(sampler, name),
            runs,
            (chunk,) if name == "decode" else (),
            given.get(name, (cache,)),
            alive,
            (cache,) if name == "resize" else (),
        )
        for name, runs in calls.items()
    ]


def _evaluating(sampler: AbstractSampler, chunk: int, trained_with: Any, same_draws: bool) -> list[Program]:
    """Those programs of an evaluation that training has not: with a cache of another size all, else what draws."""
    same = jax.tree.leaves(sampler.slots) == jax.tree.leaves(trained_with)
    names = ("decode",) if same else ("prefill", "load", "clone", "resize", "select", "decode")
    return [] if same and same_draws else _sampling(sampler, dict.fromkeys(names, 0), chunk, "eval ")


def _verifying(
    config: Config, shape: Qwen3Config, work: Workload, sampler: AbstractSampler, shards: int
) -> list[Program]:
    """The check of drafts. Every completion has one, as from the second epoch on; decoding is planned as if nothing
    were kept."""
    if config.rollout.reuse != "verified":
        return []
    calls = math.ceil(work.completions * work.row_tokens / sampler.verified)
    positions = sampler.verified // shards
    chunks = math.ceil(positions / chunk_length(positions, shape.vocab_size))
    return [Program("verify", sampler.verify, calls, (chunks,), ("sampler",), (*_TRAINING, "sampler"))]


def _batches(config: Config, work: Workload, mesh: Mesh) -> MicroBatches:
    """Micro-batches of one update, as ``Learner.batches`` makes them."""
    t = config.train
    size = (bucket(work.micro_batches), t.micro_batch_rows * batch_ways(mesh), work.row_length)

    def column(dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=batch_sharding(mesh, 1))

    rows = TokenBatch(
        tokens=column(np.int32),
        positions=column(np.int32),
        segment_ids=column(np.int32),
        weights=column(np.float32),
        advantages=column(np.float32),
        sampling_logprobs=column(np.float32),
        old_logprobs=column(np.float32) if t.updates_per_step > 1 or t.old_logprobs == "sampler" else None,
        ref_logprobs=column(np.float32) if t.beta > 0 else None,
        entropy_weights=column(np.float32) if t.uses_entropy else None,
        contexts=column(np.int32) if shares_contexts(work.row_length) else None,
    )
    used: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    return MicroBatches(rows, used)


def _spans(config: Config, batches: MicroBatches, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Parts of packed rows whose hidden states are averaged, as ``learn.batch.packed_spans`` makes them of sequences of
    half the longest."""
    places = max(FEWEST_SPANS, 2 * batches.rows.tokens.shape[-1] // config.max_sequence_length)
    return jax.ShapeDtypeStruct((*batches.rows.tokens.shape[:2], places, 2), np.int32, sharding=batch_sharding(mesh, 1))
