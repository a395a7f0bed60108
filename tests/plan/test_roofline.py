"""Work counted by formula against XLA's own count where it has no loops, and against sums by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from extra_jax.config import config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.learn.packing import MAX_SHARING_ROW
from extra_jax.model import attention
from extra_jax.model.config import Qwen3Config, preset
from extra_jax.model.qwen3 import Qwen3
from extra_jax.plan.chips import CHIPS, find_chip
from extra_jax.plan.hlo import Collective
from extra_jax.plan.roofline import (
    DCN_SECONDS,
    HOST_SECONDS,
    ICI_SECONDS,
    OPERATION_SECONDS,
    Work,
    body_parameters,
    phase,
    step_work,
)
from extra_jax.plan.workload import describe_workload

SHAPE = Qwen3Config(512, 256, 768, 3, 8, 4, head_dim=32)
ROWS, LENGTH = 2, 384


def config(**train: object):
    return config_from_dict(
        {
            "model": {"preset": "tiny", "remat": "full"},
            "rollout": {"max_prompt_length": 64, "max_completion_length": 320, "slots": 8, "chunk": 16},
            "plan": {"mean_prompt_length": 32, "mean_completion_length": 160},
            "train": {"prompts_per_step": 4, "num_generations": 4, "micro_batch_rows": 2, **train},
        }
    )


@pytest.fixture(scope="module")
def counted() -> float:
    """XLA's FLOPs of a forward pass over ``ROWS`` rows, layers apart and head applied everywhere."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Qwen3(SHAPE, rngs=nnx.Rngs(0), scan=False)))

    def forward(params: nnx.State, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens, tokens)[0])

    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), np.int32)
    return jax.jit(forward).lower(params, tokens).cost_analysis()["flops"]


def test_matrices_of_the_body_are_all_kernels_of_the_model() -> None:
    for name in ("tiny", "1.7B", "8B"):
        shape = preset(name)
        params = nnx.state(nnx.eval_shape(lambda shape=shape: Qwen3(shape, rngs=nnx.Rngs(0))))
        kernels = sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "kernel" in str(path))
        assert body_parameters(shape) == kernels


def test_flops_of_a_scoring_pass_are_those_that_xla_counts(counted: float) -> None:
    """XLA computes causal scores by blocks of queries; here a kernel's half is counted, so the other halves of those on
    the diagonal are added."""
    settings = config(num_iterations=2)
    work = dataclasses.replace(
        describe_workload(settings, SHAPE, 1),
        rows=ROWS,
        micro_batches=1,
        prompt_length=0,
        row_length=LENGTH,
        row_tokens=160,
        scorings=1,
    )
    told = step_work(settings, SHAPE, work, {"data": 1, "fsdp": 1, "tensor": 1})["score"].flops
    block = attention._block_length(LENGTH)
    other_halves = 2 * SHAPE.num_hidden_layers * SHAPE.num_attention_heads * SHAPE.head_dim * block * ROWS * LENGTH
    assert told + other_halves == pytest.approx(counted, rel=0.03)


def test_an_update_is_three_passes_and_one_more_where_layers_are_recomputed() -> None:
    axes = {"data": 1, "fsdp": 1, "tensor": 1}
    flops = {}
    for remat in ("none", "dots", "full"):
        settings = config(num_iterations=2)
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"remat": remat})})
        work = describe_workload(settings, SHAPE, 1)
        told = step_work(settings, SHAPE, work, axes)
        head = 2 * SHAPE.vocab_size * SHAPE.hidden_size * work.rows * work.row_length * 160 / work.row_tokens
        forward = told["score"].flops / work.scorings - head
        flops[remat] = (told["update"].flops / work.updates - 4 * head) / forward
    assert flops["none"] == pytest.approx(3)
    assert flops["full"] == pytest.approx(4)
    assert 3 < flops["dots"] < 3.5


def test_work_is_shared_by_devices_but_weights_are_read_by_all() -> None:
    settings = config(num_iterations=2)
    work = describe_workload(settings, SHAPE, 4)
    one = step_work(settings, SHAPE, work, {"data": 1, "fsdp": 4, "tensor": 1})
    other = step_work(settings, SHAPE, work, {"data": 1, "fsdp": 4, "tensor": 2})
    for name in ("prefill", "decode", "score", "update"):
        assert other[name].flops == pytest.approx(one[name].flops / 2)
        assert one[name].hbm_bytes / 2 <= other[name].hbm_bytes * 1.001
    weights = 2 * (body_parameters(SHAPE) + SHAPE.vocab_size * SHAPE.hidden_size)
    assert one["decode"].hbm_bytes > work.decode_calls * 16 * weights


def test_a_workload_by_hand() -> None:
    """16 completions of 160 tokens after prompts of 32, two of which share a context in a row of 384, of which 95 % are
    filled."""
    work = describe_workload(config(num_iterations=2, num_minibatches=2, beta=0.1), SHAPE, 2)
    assert (work.prompts, work.completions, work.row_length) == (4, 16, 384)
    assert work.row_tokens == 161 + 31 / 2
    assert work.rows == 4  # 8 completions of 176.5 tokens over 364.8
    assert work.micro_batches == 1  # of 2 rows on 2 shards
    assert (work.updates, work.scorings, work.mini_batches) == (4, 4, 2)
    assert work.slots == 8
    assert work.decode_calls == 20  # 16 x 160 tokens over 8 slots and 16 tokens
    assert work.head_chunks == 6  # of 128; 661 of the 768 positions of 2 rows are in the loss
    assert describe_workload(config(), SHAPE, 2).scorings == 0
    sampler = config(num_iterations=2, num_minibatches=2, beta=0.1, old_logprobs="sampler")
    assert describe_workload(sampler, SHAPE, 2).scorings == 2, "only those of the reference model"
    alone = describe_workload(config(row_length=MAX_SHARING_ROW + 1), SHAPE, 2)
    assert alone.row_tokens == 192


def test_a_phase_takes_as_long_as_its_slowest_part() -> None:
    chip = CHIPS["v5e"]
    inside = Collective("all-gather", "", 4e9, 5, 1, False)
    between = Collective("all-reduce", "", 1e9, 1, 0, True)
    assert phase(Work(197e12 * 3, 819e9), chip, [], 1).seconds == pytest.approx(3 + HOST_SECONDS)
    assert phase(Work(197e12, 819e9 * 2), chip, [], 1).bound == "memory"
    linked = phase(Work(197e12, 819e9), chip, [inside], 100)
    assert (linked.bound, linked.seconds, linked.ici_bytes) == (
        "links",
        pytest.approx(10 + 100 * (HOST_SECONDS + 5 * ICI_SECONDS)),
        2e12,
    )
    far = phase(Work(197e12, 819e9), chip, [inside, between], 100)
    assert (far.bound, far.seconds, far.dcn_bytes) == ("network", pytest.approx(32 + far.latency), 1e11)
    assert far.latency == pytest.approx(linked.latency + 100 * DCN_SECONDS)
    many = phase(Work(0.0, 0.0), chip, [], 10, operations=1000)
    assert many.seconds == pytest.approx(10 * (HOST_SECONDS + 1000 * OPERATION_SECONDS))


@pytest.mark.parametrize(
    "topology", ["v5e", "v9:2x2", "v5e:2xx4", "v5litepod:4x4", "", "v5e:0x0", "v5e:0x4", "v5e:٤x4", "v5e:4x4\n"]
)
def test_an_impossible_topology_is_refused_with_the_chips_there_are(topology: str) -> None:
    with pytest.raises(ExtraError, match=r"chips: v4, v5e, v5p, v6e, tpu7x; for example v5e:4x4"):
        find_chip(topology)
