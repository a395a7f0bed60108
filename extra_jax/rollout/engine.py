"""The sampler as the host sees it: requests in, rollouts out."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import allgather, to_global, to_local
from extra_jax.parallel.sharding import batch_ways
from extra_jax.rollout.decode import Samples, generate
from extra_jax.rollout.sampling import ROUND_AS_WRITTEN
from extra_jax.rollout.types import Request, Rollouts, SamplingParams, StopReason

Progress = Callable[[int, int, int], None]
"""Called with (finished, in flight, total) completions."""


class Sampler:
    """Generates completions in batches of prompts.

    Args:
        graphdef: of the model; parameters come with each call, in the rollout layout.
        mesh: rows are split over its data axes.
        params: how to draw.
        stop_ids: tokens that end a completion.
        seed: of the run.
        max_prompt_length: tokens; longer prompts are refused.
        batch_prompts: prompts sampled at once, all processes together.
        dtype: of activations and cache.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        *,
        params: SamplingParams,
        stop_ids: Sequence[int],
        seed: int,
        max_prompt_length: int,
        batch_prompts: int,
        dtype: str,
    ):
        self.mesh, self.params, self.max_prompt_length = mesh, params, max_prompt_length
        per_process = -(-batch_prompts // jax.process_count())
        ways = max(batch_ways(mesh) // jax.process_count(), 1)
        self.local_prompts = -(-per_process // ways) * ways  # rows must divide over the devices of a process

        def program(weights: nnx.State, prompts, lengths, rollout_ids, step) -> Samples:
            return generate(
                nnx.merge(graphdef, weights), prompts, lengths, rollout_ids, seed, step,
                params=params, stop_ids=tuple(stop_ids), dtype=dtype,
            )  # fmt: skip

        self._generate = jax.jit(program, compiler_options=ROUND_AS_WRITTEN)

    def generate(
        self, weights: nnx.State, requests: Sequence[Request], step: int, progress: Progress | None = None
    ) -> Rollouts:
        """Samples every request of this process; all processes call it together, with equally many samples each.

        Args:
            weights: in the rollout layout.
            requests: all with the same ``num_samples``.
            step: part of the identity of every draw.
            progress: told about finished rows.

        Raises:
            ExtraError: a prompt that is empty or longer than ``max_prompt_length``, before anything runs.
        """
        self._check(requests)
        batches = int(allgather(np.array([-(-len(requests) // self.local_prompts)])).max())
        total = sum(request.num_samples for request in requests)
        finished, parts = 0, []
        for index in range(batches):
            batch = requests[index * self.local_prompts : (index + 1) * self.local_prompts]
            rows = sum(request.num_samples for request in batch)
            if progress:
                progress(finished, rows, total)
            samples = self._run(weights, batch or requests[-1:], step)
            parts.append(jax.tree.map(lambda x, rows=rows: x[:rows], samples))
            finished += rows
        if progress:
            progress(finished, 0, total)
        return _rollouts(requests, jax.tree.map(lambda *x: np.concatenate(x), *parts))

    def _run(self, weights: nnx.State, batch: Sequence[Request], step: int) -> Samples:
        """Pads a batch to its fixed shape by repeating its last request, runs it, and returns this process's rows."""
        padded = [*batch, *[batch[-1]] * (self.local_prompts - len(batch))]
        prompts = np.zeros((len(padded), self.max_prompt_length), np.int32)
        for row, request in zip(prompts, padded, strict=True):
            row[: len(request.prompt_ids)] = request.prompt_ids
        lengths = np.array([len(request.prompt_ids) for request in padded], np.int32)
        ids = np.concatenate([request.rollout_id + np.arange(request.num_samples) for request in padded])
        with jax.set_mesh(self.mesh):
            inputs = to_global(self.mesh, (prompts, lengths, ids.astype(np.uint32)))
            return to_local(self._generate(weights, *inputs, np.uint32(step)))

    def _check(self, requests: Sequence[Request]) -> None:
        if len({request.num_samples for request in requests}) != 1:
            raise ExtraError("the requests of one call must exist and ask for the same number of samples")
        for request in requests:
            if not 0 < len(request.prompt_ids) <= self.max_prompt_length:
                raise ExtraError(
                    f"rollout {request.rollout_id}: prompt of {len(request.prompt_ids)} tokens; allowed are 1 to "
                    f"rollout.max_prompt_length={self.max_prompt_length}. Raise it or drop the problem"
                )


def _rollouts(requests: Sequence[Request], samples: Samples) -> Rollouts:
    counts = [request.num_samples for request in requests]
    return Rollouts(
        rollout_ids=np.concatenate([r.rollout_id + np.arange(r.num_samples) for r in requests]),
        prompt_index=np.repeat(np.arange(len(requests), dtype=np.int32), counts),
        prompt_ids=[np.asarray(r.prompt_ids, np.int32) for r in requests for _ in range(r.num_samples)],
        tokens=samples.tokens,
        lengths=samples.lengths,
        logprobs=samples.logprobs,
        entropies=samples.entropies,
        stop_reasons=[StopReason.STOP_TOKEN if stopped else StopReason.LENGTH for stopped in samples.stopped],
    )
