"""What does not fit is refused with numbers."""

import dataclasses

import jax
import pytest

from extra_jax.errors import ExtraError
from extra_jax.model.config import preset
from extra_jax.rollout import memory
from extra_jax.rollout.cache import empty_slots, whole_pages
from rollout.tiny import CAP, CONFIG, MAX_PROMPT, graphdef, mesh, sampler


def test_estimated_bytes_are_those_of_the_cache():
    slots = jax.eval_shape(lambda: empty_slots(CONFIG, 6, 40, "bfloat16", True))
    assert memory.cache_bytes(CONFIG, 6, whole_pages(40), "bfloat16") == sum(
        x.size * x.dtype.itemsize for x in slots.kv
    )


def test_slots_that_do_not_fit_are_refused_with_the_number_that_does(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda mesh: 10e9)
    with pytest.raises(
        ExtraError, match=r"slots=512 need 123\.31 GB.*10\.00 GB are free. At most rollout.slots=41 fit"
    ):
        memory.check_slots(preset("1.7B"), mesh("1"), 512, 2100, "bfloat16")
    memory.check_slots(preset("1.7B"), mesh("1"), 41, 2100, "bfloat16")


def test_memory_is_divided_over_the_mesh(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda mesh: 20e9)
    memory.check_slots(preset("1.7B"), mesh("8x1"), 512, 2100, "bfloat16")
    memory.check_slots(preset("1.7B"), mesh("4x2"), 512, 2100, "bfloat16")


def test_a_sampler_longer_than_the_model_is_refused():
    short = dataclasses.replace(CONFIG, max_position_embeddings=MAX_PROMPT + CAP - 1)
    engine = sampler("1")
    with pytest.raises(ExtraError, match=rf"{MAX_PROMPT + CAP} tokens.*max_position_embeddings={MAX_PROMPT + CAP - 1}"):
        type(engine)(
            short, graphdef(), mesh("1"), params=engine.params, stop_ids=(0,), seed=0,
            max_prompt_length=MAX_PROMPT, slots=4, chunk=4, dtype="float32",
        )  # fmt: skip


def test_default_slots_are_those_that_leave_room_for_another_cache():
    row = memory.cache_bytes(preset("1.7B"), 1, 2064, "bfloat16")
    slots = memory.default_slots(preset("1.7B"), mesh("1"), 2064, "bfloat16", 16e9)
    assert slots * row <= 16e9 / 2.3 < (slots + 1) * row, "any number, not the next power of two"
    split = memory.default_slots(preset("1.7B"), mesh("4x2"), 2064, "bfloat16", 16e9)
    assert 4 * 2 * slots <= split < 4 * 2 * (slots + 1)
    assert memory.default_slots(CONFIG, mesh("1"), 100, "float32", memory.free_bytes(mesh("1"))) == 128


@pytest.mark.parametrize(("length", "chunk"), [(1, 1), (20, 2), (256, 8), (1024, 16), (4096, 32), (16384, 64)])
def test_longer_completions_get_longer_chunks(length, chunk):
    assert memory.default_chunk(length) == chunk
