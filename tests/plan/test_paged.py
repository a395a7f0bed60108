"""What ``benchmarks/plan/paged.py`` hands to the paged kernel of JAX: the attention is that of dense rows."""

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ref_ragged_paged_attention

from benchmarks.plan.paged import PAGE, write


def test_rows_that_share_the_pages_of_a_prompt_attend_as_rows_of_their_own() -> None:
    """Three rows of 2 query heads on 1 key-value head: two continue one prompt, the third has less than a page.

    By the reference of the kernel: the interpreter of TPU kernels stops at the kernel ("'ReshapeTransform' object
    has no attribute 'indices'", jax 0.10.2), and the general one too ("'TypedInt' object has no attribute 'shape'").
    """
    rng = np.random.default_rng(0)
    lengths, size = np.array([PAGE + 9, PAGE + 30, 5], np.int32), 128
    tables = np.array([[4, 1], [4, 2], [3, 0]], np.int32)
    pool = rng.normal(size=(5, PAGE, 2, size)).astype(np.float32)
    queries = rng.normal(size=(3, 2, size)).astype(np.float32)
    new = rng.normal(size=(3, 2, size)).astype(np.float32)
    written = write(jnp.array(pool), jnp.array(new), jnp.array(lengths), jnp.array(tables))
    starts, count = jnp.arange(4, dtype=jnp.int32), jnp.array([3], jnp.int32)
    ours = ref_ragged_paged_attention(queries, written, lengths, tables, starts, count, sm_scale=0.1)
    for row, length in enumerate(lengths):
        cached = np.concatenate([pool[page] for page in tables[row]])[:length].astype(np.float64)
        cached[-1] = new[row]
        scores = 0.1 * queries[row] @ cached[:, 0].T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = weights / weights.sum(axis=1, keepdims=True) @ cached[:, 1]
        np.testing.assert_allclose(ours[row], expected, atol=1e-5)
