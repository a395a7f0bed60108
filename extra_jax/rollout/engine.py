"""The sampler as the host sees it: requests in, rollouts out, by continuous batching.

A fixed number of slots decodes in chunks of tokens. Between chunks the host takes finished rows out and puts waiting
samples in (``session.py``). Whatever can be refused is refused in this file, before anything runs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
from flax import nnx
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config
from extra_jax.parallel.sharding import batch_ways
from extra_jax.rollout import cache, memory
from extra_jax.rollout.output import Output
from extra_jax.rollout.programs import Sizes, build_programs
from extra_jax.rollout.session import Finished, Progress, Session
from extra_jax.rollout.types import Request, Rollouts, SamplingParams
from extra_jax.rollout.verify import Verifier


class Sampler:
    """Generates completions.

    Args:
        model_config: shape of the model.
        graphdef: of the model; parameters come with each call, in the rollout layout.
        mesh: rows are split over its data axes.
        params: how to draw.
        stop_ids: tokens that end a completion.
        seed: of the run.
        max_prompt_length: tokens; longer prompts are refused.
        slots: rows that decode at once, all devices together; rounded up to the data-parallel shards.
        chunk: tokens between two looks of the host.
        dtype: of activations and cache.
        scan: whether the layers of the model are stacked.
        detokenize: token ids to text; needed for stop strings only.

    Raises:
        ExtraError: the longest sequence does not fit the model, or the slots do not fit the memory.
    """

    def __init__(
        self,
        model_config: Qwen3Config,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        *,
        params: SamplingParams,
        stop_ids: Sequence[int],
        seed: int,
        max_prompt_length: int,
        slots: int,
        chunk: int,
        dtype: str,
        scan: bool = True,
        detokenize: Callable[[Sequence[int]], str] | None = None,
    ):
        self.mesh, self.params, self.max_prompt_length, self.detokenize = mesh, params, max_prompt_length, detokenize
        self.shards = batch_ways(mesh)
        self.shard_slots = -(-slots // self.shards)
        self.sizes = Sizes(self.shards, self.shard_slots, chunk, max_prompt_length + params.max_completion_length)
        memory.check_context(model_config, self.sizes.longest)
        capacity = cache.whole_pages(self.sizes.longest + chunk)
        memory.check_slots(model_config, mesh, self.shard_slots * self.shards, capacity, dtype)
        self.programs = build_programs(
            model_config, graphdef, self.sizes, params=params, stop_ids=tuple(stop_ids), dtype=dtype, scan=scan
        )
        self.seed = seed
        self.verify = Verifier(
            model_config, graphdef, mesh, self.sizes, params=params, stop_ids=stop_ids, seed=seed, dtype=dtype
        )

    def generate(
        self,
        weights: nnx.State,
        requests: Sequence[Request],
        step: int,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> Rollouts:
        """Samples every request of this process; all processes call it together.

        Args:
            weights: in the rollout layout.
            requests: of this process.
            step: part of the identity of every draw.
            progress: called between chunks with how many completions are finished; True ends the call.
            finished: called with every completion as soon as it is complete, while others decode.

        Raises:
            StopRequest: ``progress`` returned True in some process.
            ExtraError: before anything runs, a prompt or prefix that is empty or too long; later, a logit that is not
                finite, with rollout and position.
        """
        self.check(requests)
        output = Output(requests, self.params, self.detokenize)
        with jax.set_mesh(self.mesh):
            began = time.perf_counter()
            counts = self.verify(weights, step, output, finished)
            seconds = time.perf_counter() - began
            session = Session(
                self.programs, self.sizes, self.mesh, weights, self.seed, step, output, progress, finished
            )
            rollouts = session.run()
        return replace(rollouts, counters=rollouts.counters + replace(counts, seconds=seconds))

    def check(self, requests: Sequence[Request]) -> None:
        """Raises ``ExtraError`` for a request that cannot be served."""
        cap = self.params.max_completion_length
        for request in requests:
            if not 0 < len(request.prompt_ids) <= self.max_prompt_length:
                raise ExtraError(
                    f"rollout {request.rollout_id}: prompt of {len(request.prompt_ids)} tokens; allowed are 1 to "
                    f"rollout.max_prompt_length={self.max_prompt_length}. Raise it or drop the problem"
                )
            if len(request.prefix_ids) >= cap:
                raise ExtraError(
                    f"rollout {request.rollout_id}: prefix of {len(request.prefix_ids)} tokens leaves nothing of the "
                    f"{cap} tokens of a completion (rollout.max_completion_length). Cut the prefix earlier"
                )
