"""How much work a step is, in numbers, from the configuration alone."""

import math
from dataclasses import dataclass

from extra_jax.config import Config
from extra_jax.explore.build import needs_hidden_states
from extra_jax.learn.packing import shares_contexts
from extra_jax.learn.score import chunk_length
from extra_jax.model.config import Qwen3Config

_PACKED = 0.95
"""Share of a row that holds tokens; heavy-tailed lengths pack better (``tests/learn/test_batch.py``)."""


@dataclass(frozen=True)
class Workload:
    """Counts of one step over all devices."""

    prompts: int  # problems
    completions: int  # samples of all of them
    prompt_length: int  # mean tokens
    completion_length: int  # mean tokens
    longest: int  # tokens of the longest prompt and completion
    row_length: int  # tokens of a packed row
    row_tokens: float  # mean of a completion in a row, with its part of a context that it shares
    rows: int  # packed rows of one optimizer update
    micro_batches: int  # of one optimizer update
    head_chunks: int  # of one micro-batch, on each shard
    updates: int  # optimizer updates
    scorings: int  # passes over all rows of a mini-batch that only score them
    mini_batches: int  # parts of the completions with an update of their own
    slots: int  # completions that decode side by side
    chunk: int  # tokens of a decode call
    decode_calls: int  # decode chunks when finished slots are filled at once


def describe_workload(config: Config, shape: Qwen3Config, shards: int) -> Workload:
    """Counts of a step whose rows are split into ``shards``.

    ``rollout.slots`` and ``rollout.chunk`` are set; ``plan.mean_*_length`` are half of the longest where they are not.
    """
    t, r, p = config.train, config.rollout, config.plan
    assert r.slots is not None, "with_sampler_defaults fills the slots"
    assert r.chunk is not None, "with_sampler_defaults fills the chunk"
    prompt = p.mean_prompt_length or -(-r.max_prompt_length // 2)
    completion = p.mean_completion_length or -(-r.max_completion_length // 2)
    row_length = config.packed_row_length
    fitting = (row_length - prompt + 1) // (completion + 1)  # completions beside one context
    sharing = min(max(fitting, 1), t.num_generations) if shares_contexts(row_length) else 1
    row_tokens = completion + 1 + (prompt - 1) / sharing
    rows = math.ceil(t.minibatch_size * row_tokens / (row_length * _PACKED))
    positions = t.micro_batch_rows * row_length
    in_loss = positions * _PACKED * completion / row_tokens
    slots = shards * math.ceil(min(r.slots, t.completions_per_step) / shards)
    compares = t.updates_per_step > 1 and t.old_logprobs == "learner"
    scored = (compares or needs_hidden_states(config)) + (t.beta > 0)
    return Workload(
        prompts=t.prompts_per_step,
        completions=t.completions_per_step,
        prompt_length=prompt,
        completion_length=completion,
        longest=config.max_sequence_length,
        row_length=row_length,
        row_tokens=row_tokens,
        rows=rows,
        micro_batches=math.ceil(rows / (t.micro_batch_rows * shards)),
        head_chunks=math.ceil(in_loss / chunk_length(positions, shape.vocab_size)),
        updates=t.updates_per_step,
        scorings=scored * t.num_minibatches,
        mini_batches=t.num_minibatches,
        slots=slots,
        chunk=r.chunk,
        decode_calls=math.ceil(t.completions_per_step * completion / (slots * r.chunk)),
    )
