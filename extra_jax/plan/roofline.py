"""How long a step takes at best: work and traffic counted from the configuration, over the peaks of a chip.

FLOPs and bytes of memory are counted here, by formula, because the compiler counts the body of a loop once. Bytes
between chips are those of the compiled programs (``hlo.py``). A phase takes the longest of the three, as if all of it
overlapped and every matmul ran at its peak: no step is faster, most are slower.
"""

from dataclasses import dataclass

from extra_jax.config import Config
from extra_jax.model.config import Qwen3Config
from extra_jax.plan.chips import Chip
from extra_jax.plan.hlo import Collective
from extra_jax.plan.workload import Workload
from extra_jax.rollout.verify import TOKENS

_BYTES = {"float32": 4, "bfloat16": 2}
# What the smallest thing of its kind costs. Nobody has measured them with these programs; they are stated so that a
# plan can be corrected. A hop of the interconnect is about a microsecond ("How to scale your model", chapter TPUs), and
# a ring of a host or a slice has several. An operation of the chip, and a round trip of the host for a program with its
# arrays and one gather of numbers, are our estimates; for transfers between slices so is a round trip of the network.
OPERATION_SECONDS, ICI_SECONDS, DCN_SECONDS, HOST_SECONDS = 1e-6, 5e-6, 5e-4, 5e-3


@dataclass(frozen=True)
class Work:
    """What one device does in all calls of a program in a step."""

    flops: float
    hbm_bytes: float


@dataclass(frozen=True)
class Phase:
    """One program in a step, on one device."""

    flops: float  # counted by formula
    hbm_bytes: float  # counted by formula
    ici_bytes: float  # sent within the slice, counted in the compiled program
    dcn_bytes: float  # sent to other slices, likewise
    seconds: float  # at best
    latency: float  # seconds of them in which the chip starts something or waits for somebody, whatever its size
    bound: str  # what takes that long: `compute`, `memory`, `links` or `network`


def phase(work: Work, chip: Chip, collectives: list[Collective], runs: int, operations: int = 0) -> Phase:
    """At best, on one device of a chip; the devices of a chip share its peaks.

    Args:
        operations: started one after the other in a call, where they are small enough to count.
    """
    ici = runs * sum(one.bytes * one.runs for one in collectives if not one.crosses_slices)
    dcn = runs * sum(one.bytes * one.runs for one in collectives if one.crosses_slices)
    seconds = {
        "compute": work.flops / chip.flops,
        "memory": work.hbm_bytes / chip.hbm_bandwidth,
        "links": ici / chip.ici_bandwidth,
        "network": dcn / chip.dcn_bandwidth,
    }
    bound = max(seconds, key=seconds.__getitem__)
    latency = runs * (
        HOST_SECONDS
        + operations * OPERATION_SECONDS
        + sum(one.runs * (DCN_SECONDS if one.crosses_slices else ICI_SECONDS) for one in collectives)
    )
    return Phase(work.flops, work.hbm_bytes, ici, dcn, chip.devices * seconds[bound] + latency, latency, bound)


def step_work(config: Config, shape: Qwen3Config, work: Workload, mesh: dict[str, int]) -> dict[str, Work]:
    """Work of each program by name, on one device.

    Attention is counted as a kernel does it: the causal half, no scores in memory. Padding of rows is work like any.
    ``mesh`` holds the sizes of the axes.
    """
    tensor, shards = mesh["tensor"], mesh["data"] * mesh["fsdp"]
    devices = tensor * shards
    layers, heads = shape.num_hidden_layers, shape.num_attention_heads * shape.head_dim
    matrices = body_parameters(shape)  # of all layers
    head = shape.vocab_size * shape.hidden_size
    trained = _BYTES[config.model.dtype]
    served = _BYTES[config.rollout.dtype]

    # one pass over the rows of an update, forwards
    tokens = work.micro_batches * config.train.micro_batch_rows * shards * work.row_length
    scored = work.rows * work.row_length * work.completion_length / work.row_tokens
    attention = 2 * layers * heads * work.row_length * tokens
    forward = (2 * matrices * tokens + attention) / devices
    project = 2 * head * scored / devices
    traffic = _layer_traffic(shape, trained) * layers * tokens / devices
    gathered = trained * (matrices + head) / tensor * work.micro_batches  # each device reads every weight of its part
    again = {"full": 1.0, "dots": attention / (2 * matrices * tokens + attention), "none": 0.0}[config.model.remat]
    optimizer = 7 * _BYTES[config.model.param_dtype] * shape.num_parameters / devices  # gradient, value, two moments

    context = work.prompt_length + work.completion_length / 2
    sampled = work.completions * work.completion_length
    keys = 2 * layers * shape.num_key_value_heads * shape.head_dim * served  # bytes a token
    decoded = work.decode_calls * work.chunk
    prompt_tokens = work.prompts * work.prompt_length
    checked = work.completions * work.row_tokens  # of drafts, of all completions
    return {
        "weight sync": Work(
            0.0, _BYTES[config.model.param_dtype] * shape.num_parameters / devices
            + served * shape.num_parameters / tensor,
        ),
        "prefill": Work(
            (2 * matrices + 2 * layers * heads * work.prompt_length) * prompt_tokens / devices,
            -(-work.prompts // (4 * shards)) * served * matrices / tensor
            + (_layer_traffic(shape, served) * layers + keys) * prompt_tokens / devices,
        ),
        **_copies(shape, work, keys, shards),
        "decode": Work(
            (2 * (matrices + head) + 4 * layers * heads * context) * sampled / devices,
            decoded * served * (matrices + head) / tensor + keys * context * sampled / devices,
        ),
        "verify": Work(
            (2 * matrices + 2 * layers * heads * work.longest) * checked / devices + 2 * head * sampled / devices,
            -(-checked // (TOKENS * shards)) * served * (matrices + head) / tensor
            + _layer_traffic(shape, served) * layers * checked / devices,
        ),
        "score": Work(
            work.scorings * (forward + project), work.scorings * (traffic + gathered)
        ),
        "update": Work(
            work.updates * (forward * (3 + again) + project * 4),
            work.updates * (traffic + gathered) * (3 + again) + work.updates * optimizer,
        ),
    }  # fmt: skip


def _copies(shape: Qwen3Config, work: Workload, keys: float, shards: int) -> dict[str, Work]:
    """What moves keys and values on one device: prompts into the cache, to the rows of their group, and the cache
    itself to another size, read and written."""
    cache = work.slots * work.longest * keys / shards
    prompts, clones = work.prompts * work.prompt_length * keys / shards, work.completions - work.prompts
    copied = {"load": 2 * prompts, "clone": 2 * clones * work.prompt_length * keys / shards}
    return {name: Work(0.0, moved) for name, moved in {**copied, "resize": 2 * cache, "select": 2 * cache}.items()}


def body_parameters(shape: Qwen3Config) -> int:
    """Parameters of the matrices of all layers: what every token is multiplied with."""
    attention = 2 * shape.hidden_size * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads)
    return shape.num_hidden_layers * (attention + 3 * shape.hidden_size * shape.intermediate_size)


def _layer_traffic(shape: Qwen3Config, width: int) -> float:
    """Bytes a token that the matmuls of one layer read and write, forwards."""
    d, f = shape.hidden_size, shape.intermediate_size
    q, k = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    return width * ((d + q) + 2 * (d + k) + (q + d) + 3 * (d + f))
