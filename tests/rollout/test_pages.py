"""Caches whose keys lie in pages, against plain arrays of positions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.model.qwen3 import KeysValues
from extra_jax.rollout import cache
from rollout.tiny import generate, requests, sampler

ROWS, HEADS, SIZE = 3, 2, 4


def plain(kv: KeysValues) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values as ``[S, K, C, H]``."""
    k = np.asarray(kv.k).reshape(ROWS, HEADS, -1, SIZE, kv.k.shape[-1])
    return k.transpose(0, 1, 2, 4, 3).reshape(ROWS, HEADS, -1, SIZE), np.asarray(kv.v)


def slots(random: np.random.Generator, page: int, pages: int) -> cache.Slots:
    k = random.standard_normal((ROWS, HEADS, pages * SIZE, page)).astype(np.float32)
    v = random.standard_normal((ROWS, HEADS, pages * page, SIZE)).astype(np.float32)
    row = jnp.zeros(ROWS, jnp.int32)
    return cache.Slots(KeysValues(jnp.asarray(k), jnp.asarray(v)), row, row, row, row, row, row > 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.data())
def test_a_chunk_lands_at_its_positions(page, pages, length, data):
    length = min(length, page * pages)
    start = data.draw(st.lists(st.integers(0, page * pages - length), min_size=ROWS, max_size=ROWS))
    random = np.random.default_rng(page)
    kv = slots(random, page, pages).kv
    new = random.standard_normal((ROWS, HEADS, length, SIZE)).astype(np.float32)
    recent = KeysValues(jnp.asarray(new.swapaxes(2, 3)), jnp.asarray(new))
    expected = [x.copy() for x in plain(kv)]
    for x in expected:
        for row, at in enumerate(start):
            x[row, :, at : at + length] = new[row]
    for actual, wanted in zip(plain(cache.append(kv, recent, jnp.asarray(start))), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.data())
def test_contexts_are_loaded_and_copied_to_the_rows_that_want_them(page, pages, data):
    length = data.draw(st.integers(1, page * pages))
    before = slots(np.random.default_rng(page), page, pages)
    fresh = np.random.default_rng(length).standard_normal((2, length, HEADS, SIZE)).astype(np.float32)
    copies = cache.Copies(jnp.array([1, 0, 0]), jnp.array([0, 2, cache.KEEP]))
    loaded = cache.load(before, KeysValues(jnp.asarray(fresh), jnp.asarray(fresh)), copies, shards=1)
    for old, new in zip(plain(before.kv), plain(loaded.kv), strict=True):
        np.testing.assert_array_equal(new[0, :, :length], fresh[1].swapaxes(0, 1))
        np.testing.assert_array_equal(new[2, :, :length], fresh[0].swapaxes(0, 1))
        np.testing.assert_array_equal(new[1], old[1])
    copied = cache.clone(before, cache.Copies(jnp.array([0, 1]), jnp.array([1, cache.KEEP])), length, shards=1)
    for old, new in zip(plain(before.kv), plain(copied.kv), strict=True):
        np.testing.assert_array_equal(new[1, :, :length], old[0, :, :length])
        np.testing.assert_array_equal(new[[0, 2]], old[[0, 2]])


@pytest.mark.parametrize("capacity", [1, 5, 8, 9, 16])
@pytest.mark.parametrize("page", [4, 8, None])
def test_a_row_gets_whole_pages_and_keeps_what_it_holds(monkeypatch, page, capacity):
    monkeypatch.setattr(cache, "page_size", lambda capacity: page or capacity)
    before = slots(np.random.default_rng(0), page or 8, 8 // (page or 8))
    after = cache.resize(before, capacity)
    assert after.capacity == (-(-capacity // page) * page if page else capacity)
    kept = min(after.capacity, 8)
    for old, new in zip(plain(before.kv), plain(after.kv), strict=True):
        np.testing.assert_array_equal(new[:, :, :kept], old[:, :, :kept])
        assert not new[:, :, kept:].any()


@pytest.mark.parametrize(("scan", "page"), [(True, 4), (False, 4), (True, None)])
def test_tokens_do_not_depend_on_the_size_of_a_page(monkeypatch, scan, page):
    expected = generate(requests(), scan=scan)
    monkeypatch.setattr(cache, "page_size", lambda capacity: page or capacity)
    sampler.cache_clear()  # the size is part of what is compiled
    actual = generate(requests(), scan=scan)
    sampler.cache_clear()
    np.testing.assert_array_equal(actual.tokens, expected.tokens)
    np.testing.assert_allclose(actual.logprobs, expected.logprobs, atol=1e-5)
