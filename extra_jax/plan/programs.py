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
from extra_jax.model.load import abstract_model
from extra_jax.parallel.reshard import reshard_program
from extra_jax.parallel.sharding import ROLLOUT, TRAIN, batch_sharding, batch_ways, param_shardings, replicated
from extra_jax.plan.sampler import sampler_programs
from extra_jax.plan.workload import Workload, describe_workload
from extra_jax.rollout.programs import COPY_ROWS, prefill_rows
from extra_jax.runtime import device_bytes, scans_layers, weight_bytes

KINDS = ("parameters", "optimizer", "reference", "sampler", "cache", "batches")


@dataclass(frozen=True)
class Program:
    """One jitted function of the run."""

    name: str
    lower: Callable[[], jax.stages.Lowered]  # traces and lowers it for the devices of the mesh
    runs: int  # calls a step
    trips: tuple[int, ...]  # how often its loops over data run in a call, from the outermost inwards
    arguments: tuple[str, ...]  # kinds of memory that it is given
    alive: tuple[str, ...]  # kinds of memory that exist while it runs
    results: tuple[str, ...] = ()  # kinds of memory that it makes anew


@dataclass(frozen=True)
class Run:
    """Everything that a plan compiles and adds up."""

    programs: list[Program]  # in the order of a step
    memory: dict[str, int]  # bytes of each of `KINDS` on a device
    workload: Workload  # counts of a step


def describe_run(config: Config, shape: Qwen3Config, mesh: Mesh) -> Run:
    """The programs of a training step on a mesh over any devices, and what stays in memory between them.

    Raises:
        ExtraError: an axis that the mesh does not divide.
    """

    def place(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return leaf.update(sharding=sharding)

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

    # Every completion has a draft, as from the second epoch on; decoding is planned as if nothing were kept.
    verify_calls = (
        math.ceil(work.completions * work.row_tokens / sampler.verified) if config.rollout.reuse == "verified" else 0
    )
    positions = sampler.verified // batch_ways(mesh)
    verify_chunks = math.ceil(positions / chunk_length(positions, shape.vocab_size))

    training = ("parameters", "optimizer", "reference")
    early = needs_hidden_states(config)  # novelty needs them while the sampler's weights are still there
    spans = (_spans(config, batches, mesh),) if early else ()
    rollout = (*training, "sampler", "cache")
    prompts_a_call = prefill_rows(config.rollout.max_prompt_length, work.slots) * batch_ways(mesh)
    programs = [
        Program(
            "weight sync", lambda: sync.lower(params), 1, (), ("parameters",), (*training, "sampler"), ("sampler",)
        ),
        Program("prefill", sampler.prefill, -(-work.prompts // prompts_a_call), (), ("sampler",), rollout),
        Program("load", sampler.load, -(-work.prompts // prompts_a_call), (), ("cache",), rollout),
        Program(
            "clone", sampler.clone, -(-work.completions // (COPY_ROWS * batch_ways(mesh))), (), ("cache",), rollout
        ),
        Program("resize", sampler.resize, 1, (), (), rollout),
        Program("select", sampler.select, 1, (), ("cache",), rollout),
        Program("decode", sampler.decode, work.decode_calls, (work.chunk,), ("sampler", "cache"), rollout),
        Program("verify", sampler.verify, verify_calls, (verify_chunks,), ("sampler",), (*training, "sampler")),
        Program(
            "score",
            lambda: learner.score.lower(params, unscored, *spans),
            work.scorings,
            (work.micro_batches, work.head_chunks),
            ("parameters", "batches"),
            (*training, *(("sampler",) if early else ()), "batches"),
        ),
        Program(
            "update",
            lambda: learner.update.program.lower(state, batches),
            work.updates,
            (work.micro_batches, work.head_chunks),
            ("parameters", "optimizer", "batches"),
            (*training, "batches"),
        ),
    ]
    memory = {
        **weight_bytes(config, shape, mesh),
        "cache": device_bytes(sampler.slots),
        "batches": device_bytes(batches) * work.mini_batches,
    }
    return Run([program for program in programs if program.runs], memory, work)


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
