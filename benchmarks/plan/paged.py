"""Could decode on TPU read pages instead of rows? By the TPU compiler for the kernel of JAX, and by counting bytes.

    python -m benchmarks.plan.paged

Writes ``paged.csv``. Three questions: does ``ragged_paged_attention`` compile in a loop over tokens and layers whose
pages are written in place (temporaries tell), do rows that share the pages of a prompt attend as dense ones do (by the
reference of the kernel, ``tests/plan/test_paged.py``), and what do steps of a heavy-tailed workload move, counted from
the blocks that the kernel copies, beside what ``decode_chunk`` moves today.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.plan.cases import run_cases
from extra_jax.model.config import Qwen3Config, preset
from extra_jax.plan.chips import find_chip
from extra_jax.plan.compiler import refusal

HERE = Path(__file__).parent
PAGE, BLOCK = 64, 4  # positions of a page, pages of a copy
PROMPT, CAP, MEAN, ROLLOUTS, GROUP = 1024, 4096, 1100, 2048, 8
CASES = [  # model, topology, chips that share a row (tensor)
    ("1.7B", "v5e:2x2", 1), ("4B", "v6e:2x2", 4), ("8B", "v6e:2x2", 4), ("8B", "v5p:2x2x1", 4), ("4B", "v5e:2x2", 4),
    ("1.7B", "v6e:2x2", 1), ("1.7B", "v5p:2x2x1", 1),
]  # fmt: skip


def attend(queries: jax.Array, pool: jax.Array, lengths: jax.Array, tables: jax.Array, scale: float) -> jax.Array:
    """Attention of one new token of each row over its pages.

    Args:
        queries: ``[S, N, H]``.
        pool: ``[pages, P, 2K, H]``, keys and values of a head side by side.
        lengths: ``[S]`` int32 tokens of each row, the new one included.
        tables: ``[S, C/P]`` int32 pages of each row; rows may share them.
        scale: of the scores.
    """
    rows = len(lengths)
    starts, count = jnp.arange(rows + 1, dtype=jnp.int32), jnp.array([rows], jnp.int32)
    return ragged_paged_attention(
        queries, pool, lengths, tables, starts, count, sm_scale=scale,
        num_kv_pages_per_block=min(BLOCK, tables.shape[1]), num_queries_per_block=min(8, rows),
        vmem_limit_bytes=64 << 20,
    )  # fmt: skip


def write(pool: jax.Array, new: jax.Array, lengths: jax.Array, tables: jax.Array) -> jax.Array:
    """Puts keys and values ``[S, 2K, H]`` of the newest token of each row into its page."""
    place = lengths - 1
    page = jnp.take_along_axis(tables, (place // PAGE)[:, None], axis=1)[:, 0]
    return pool.at[page, place % PAGE].set(new, unique_indices=True, mode="promise_in_bounds")


def chunk(pool: jax.Array, lengths: jax.Array, tables: jax.Array, start: jax.Array, layers: int) -> tuple:
    """32 tokens through the attention of all layers, whose pages lie in one pool one layer after the other."""
    pages = pool.shape[0] // layers

    def token(_: int, carry: tuple) -> tuple:
        def layer(index: int, inner: tuple) -> tuple:
            pool, hidden = inner
            own = tables + index * pages
            pool = write(pool, jnp.broadcast_to(hidden[:, :1], (len(lengths), *pool.shape[2:])), carry[1], own)
            return pool, attend(hidden, pool, carry[1], own, 0.088)

        pool, hidden = jax.lax.fori_loop(0, layers, layer, (carry[0], carry[2]))
        return pool, carry[1] + 1, hidden

    return jax.lax.fori_loop(0, 32, token, (pool, lengths, start))


def compile_chunk(shape: Qwen3Config, topology: str, tensor: int, rows: int, pages: int) -> tuple[float, str]:
    """GiB of temporaries on a device, and what the compiler refuses, if it does."""
    from jax.experimental import topologies

    mesh = Mesh(np.array(topologies.get_topology_desc(topology, platform="tpu").devices[:1]), ("chip",))
    device = NamedSharding(mesh, PartitionSpec())
    heads, kv = shape.num_attention_heads // tensor, max(shape.num_key_value_heads // tensor, 1)

    def like(dtype: type, *size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=device)

    layers = shape.num_hidden_layers
    arguments = (
        like(jnp.bfloat16, layers * pages, PAGE, 2 * kv, shape.head_dim),
        like(jnp.int32, rows),
        like(jnp.int32, rows, -(-(PROMPT + CAP) // PAGE)),
        like(jnp.bfloat16, rows, heads, shape.head_dim),
    )
    try:
        with jax.set_mesh(mesh):
            compiled = jax.jit(chunk, static_argnums=4, donate_argnums=0).lower(*arguments, layers).compile()
    except Exception as error:
        what = refusal(str(error))
        return math.nan, f"{what[0]}: {what[1] / 2**30:.1f} GiB" if what else str(error).splitlines()[0][:160]
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes / 2**30, ""


def lengths_drawn(rng: np.random.Generator) -> np.ndarray:
    """Completion lengths with a heavy tail, of the stated mean, cut at the cap."""
    drawn = rng.lognormal(0.0, 0.9, ROLLOUTS)
    low, high = 1.0, 1e5
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if np.minimum(drawn * middle, CAP).mean() < MEAN else (low, middle)
    return np.minimum(drawn * low, CAP).astype(int).clip(1)


def occupied(lengths: np.ndarray, rows: int) -> list[np.ndarray]:
    """Tokens of each live row (prompt included) every 32 steps, when a free row takes the next completion."""
    waiting, running, seen = list(lengths), [], []
    while waiting or running:
        while waiting and len(running) < rows:
            running.append([PROMPT, PROMPT + waiting.pop(0)])
        seen.append(np.array([now for now, _ in running]))
        running = [[now + 32, end] for now, end in running if now + 32 < end]
    return seen


def pages_held(lengths: np.ndarray, rows: int) -> float:
    """Pages that a row holds on average, when a group shares those of its prompt."""
    tokens = np.concatenate(occupied(lengths, rows))
    return float((np.ceil((tokens - PROMPT) / PAGE) + PROMPT / PAGE / GROUP).mean() + 1)


def measure(model: str, topology: str, tensor: int) -> dict[str, str | int | float]:
    """One row of the table; everything is of one device."""
    shape, chip = preset(model), find_chip(topology)
    kv = max(shape.num_key_value_heads // tensor, 1)
    token = 2 * shape.num_hidden_layers * kv * shape.head_dim * 2
    weights = 2 * shape.num_parameters / tensor
    trained = 16 * shape.num_parameters / 16  # master weights, two moments and a reference over 16 chips
    free = chip.hbm_bytes / chip.devices - weights - trained
    longest = PROMPT + CAP + 32
    today = max(1, int(free / 3 / (token * longest)))
    lengths = lengths_drawn(np.random.default_rng(0))
    paged = today
    for _ in range(8):  # more rows hold fewer waiting ones; a tenth is left for temporaries
        paged = int(0.9 * free / (token * PAGE * pages_held(lengths, max(paged, 1))))
    paged = min(paged, 512, ROLLOUTS)
    read = weights + token * longest * today
    live, copied = [], []
    for tokens in occupied(lengths, paged):
        live.append(weights + token * tokens.sum())
        copied.append(weights + token * PAGE * BLOCK * np.ceil(tokens / (PAGE * BLOCK)).sum())
    pages = int(0.9 * free / (token * PAGE))
    temporaries, refused = compile_chunk(shape, topology, tensor, paged, pages)
    return {
        "model": model,
        "chip": chip.name,
        "tensor": tensor,
        "rows_today": today,
        "rows_paged": paged,
        "step_gb_today": round(read / 1e9, 2),
        "step_gb_paged": round(float(np.mean(copied)) / 1e9, 2),
        "over_live": round(float(np.sum(copied) / np.sum(live)), 3),
        "tokens_per_s_today": round(today / (read / chip.hbm_bandwidth)),
        "tokens_per_s_paged": round(
            float(np.sum([len(t) for t in occupied(lengths, paged)]) / (np.sum(copied) / chip.hbm_bandwidth))
        ),
        "pool_gib": round(pages * PAGE * token / 2**30, 2),
        "temporaries_gib": round(temporaries, 3),
        "refused": refused,
    }


if __name__ == "__main__":
    run_cases(__doc__, HERE / "paged.csv", CASES, measure)
