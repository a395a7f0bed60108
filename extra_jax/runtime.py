"""A model without its parameters: its shape, its tokenizer and its place on the mesh. Every verb starts from one."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from extra_jax.config import Config
from extra_jax.data.load import check_vocabulary, encode_prompts, model_tokenizer
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.learn.optimizer import make_optimizer
from extra_jax.learn.update import abstract_state
from extra_jax.model.config import Qwen3Config
from extra_jax.model.load import abstract_model, build_model
from extra_jax.model.qwen3 import MAX_UNROLLED
from extra_jax.parallel import processes
from extra_jax.parallel.compiled import keep_programs
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.reshard import reshard_program
from extra_jax.parallel.sharding import ROLLOUT, TRAIN, param_shardings
from extra_jax.rollout import memory
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.types import Rollouts, SamplingParams


@dataclass(frozen=True)
class Runtime:
    """What does not change during a run."""

    config: Config
    mesh: Mesh
    model_config: Qwen3Config  # shape of the model
    graphdef: nnx.GraphDef  # of the model; merge it with parameters to call it
    tokenizer: Tokenizer  # of the model

    def rollout_weights(self, params: nnx.State) -> nnx.State:
        """Training parameters -> the sampler's: not split over ``fsdp``, in ``rollout.dtype``. Once per phase.

        Where that changes nothing they are the parameters themselves, which end with the next update.
        """
        same_dtype = all(leaf.dtype == self.config.rollout.dtype for leaf in jax.tree.leaves(params))
        if self.mesh.size == 1 and self.scan_rollout and same_dtype:
            return params  # a copy would only take memory
        program = reshard_program(params, self.mesh, dtype=self.config.rollout.dtype, unstack=not self.scan_rollout)
        return program(params)

    @property
    def scan_rollout(self) -> bool:
        """Whether the sampler scans its layers."""
        return scans_layers(self.model_config)

    def sampler(
        self, params: SamplingParams, *, stream: str, seed: int | None = None, training: bool = True
    ) -> Sampler:
        """A sampler with random numbers of its own: a seed (``run.seed``) gives other draws in another ``stream``.

        Args:
            params: how to draw.
            stream: of random numbers.
            seed: default: that of the run.
            training: whether optimizer and reference are in memory beside it.
        """
        settings, scan = self.config.rollout, self.scan_rollout
        slots, chunk = sampler_sizes(self.config, self.model_config, self.mesh, params, training=training)
        return Sampler(
            self.model_config,
            abstract_model(self.model_config, self.config.model, scan=scan)[0],
            self.mesh,
            params=params,
            stop_ids=self.tokenizer.stop_ids,
            seed=zlib.crc32(f"{self.config.run.seed if seed is None else seed}/{stream}".encode()),
            max_prompt_length=settings.max_prompt_length,
            slots=slots,
            chunk=chunk,
            dtype=settings.dtype,
            scan=scan,
            detokenize=self.tokenizer.decode,
        )

    def encode_prompts(self, problems: Iterable[Problem]) -> dict[str, list[int]]:
        """Token ids of each prompt by problem uid.

        Raises:
            ExtraError: prompts longer than ``rollout.max_prompt_length``; how many, the longest, and the remedy.
        """
        return encode_prompts(self.tokenizer, problems, self.config.rollout.max_prompt_length)

    def opens_thinking(self, prompts: Iterable[Sequence[int]]) -> bool:
        """Whether prompts end inside a thought, as the template of Qwen3-Thinking-2507 makes them."""
        return any(self.tokenizer.decode(end).rstrip().endswith("<think>") for end in {tuple(p[-8:]) for p in prompts})

    def decode(self, rollouts: Rollouts) -> list[str]:
        """``[R]`` texts of the answers, without special tokens; a prefix is the beginning of its answer."""
        rows = range(len(rollouts))
        return [self.tokenizer.decode([*rollouts.prefix_ids[row], *rollouts.completion_ids(row)]) for row in rows]


def sampling_params(config: Config) -> SamplingParams:
    """How the training rollouts are drawn."""
    r = config.rollout
    return SamplingParams(r.temperature, r.top_p, r.top_k, r.min_p, r.max_completion_length, r.stop_strings)


def eval_sampling(config: Config) -> SamplingParams:
    """How the completions of an evaluation are drawn."""
    e = config.eval
    length = e.max_completion_length or config.rollout.max_completion_length
    return SamplingParams(e.temperature, e.top_p, e.top_k, e.min_p, length, config.rollout.stop_strings)


def sampler_sizes(
    config: Config, shape: Qwen3Config, mesh: Mesh, params: SamplingParams, *, training: bool = True
) -> tuple[int, int]:
    """Slots of all devices together and tokens of a chunk: those of ``rollout``, or what a plan and a run choose."""
    settings = config.rollout
    chunk = settings.chunk or memory.default_chunk(params.max_completion_length)
    if settings.slots is not None:
        return settings.slots, chunk
    capacity = settings.max_prompt_length + params.max_completion_length + chunk
    alive = sum(weight_bytes(config, shape, mesh, training=training).values())
    free = memory.usable_bytes(mesh) - alive
    return memory.default_slots(shape, mesh, capacity, settings.dtype, free), chunk


def weight_bytes(config: Config, shape: Qwen3Config, mesh: Mesh, *, training: bool = True) -> dict[str, int]:
    """Bytes on a device of what is alive while it samples, by kind: in training the optimizer and, for the divergence
    from it, the reference stay where they are."""
    abstract = abstract_model(shape, config.model)[1]
    trained = _placed(abstract, param_shardings(abstract, mesh, TRAIN))
    scan = scans_layers(shape)
    served = jax.eval_shape(reshard_program(trained, mesh, ROLLOUT, config.rollout.dtype, unstack=not scan), trained)
    kinds = {
        "parameters": device_bytes(trained),
        "sampler": device_bytes(_placed(served, param_shardings(served, mesh, ROLLOUT))),
    }
    if training:
        state = abstract_state(trained, make_optimizer(config.optim, 1), mesh)
        kinds["optimizer"] = device_bytes(state.opt_state)
        kinds["reference"] = kinds["parameters"] if config.train.beta > 0 else 0
    return kinds


def _placed(abstract: nnx.State, shardings: nnx.State) -> nnx.State:
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), abstract, shardings)


def device_bytes(tree: Any) -> int:
    """Bytes of abstract values on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def scans_layers(shape: Qwen3Config) -> bool:
    """Whether a sampler scans the layers of this model; a shallow one decodes faster with its layers apart."""
    return shape.num_hidden_layers > MAX_UNROLLED


def load_policy(config: Config) -> tuple[Runtime, nnx.State]:
    """Joins the processes, lays out the mesh, loads the tokenizer and the initial parameters (training layout).

    Raises:
        ExtraError: tokenizer and model do not fit each other, or one of them does not load.
    """
    keep_programs()
    processes.initialize(config.distributed, config.mesh)
    mesh = make_mesh(config.mesh)
    processes.check_rows_split_over_processes(mesh)
    tokenizer = model_tokenizer(config)
    graphdef, params, model_config = build_model(config.model, mesh, seed=config.run.seed)
    check_vocabulary(tokenizer, model_config)
    return Runtime(config, mesh, model_config, graphdef, tokenizer), params
