"""Tokenizers: exact round trips, stop tokens, chat templates, and folders that transformers loads."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from extra_jax.data.tasks import chain, countdown
from extra_jax.data.tokenizer import HFTokenizer, SentencePieceTokenizer, load_tokenizer
from extra_jax.errors import ExtraError

SPECIAL = ("<|pad|>", "<|end|>", "<|start|>")
TEMPLATE = (
    "{%- for m in messages -%}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{%- endfor -%}"
    "{%- if messages|length > 3 -%}{{ raise_exception('too long') }}{%- endif -%}"
    "{%- if add_generation_prompt -%}<|start|>assistant\n"
    "{%- if enable_thinking is defined and not enable_thinking -%}<no>\n{%- endif -%}{%- endif -%}"
)
TINY = load_tokenizer("tiny")
ALPHABET = "".join(piece for piece in TINY.pieces if len(piece) == 1)


def hf_folder(directory, *, eos="<|end|>", pad="<|pad|>", template=TEMPLATE, stop=None, special=SPECIAL):
    """A byte-level tokenizer with three special tokens, written as a model folder has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(piece, special=True) for piece in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token=pad)
    fast.chat_template = template
    fast.save_pretrained(str(directory))
    if stop is not None:
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    return directory


def task_texts(count=300):
    bounds = {"numbers": (2, 6), "max_number": 99, "max_target": 999}
    problems = countdown.generate(count, seed=1, split="train", **bounds)
    problems += chain.generate(count, seed=1, split="test", steps=(1, 12), max_value=999)
    return [
        text for problem in problems for text in (problem.prompt, problem.solution, problem.prompt + problem.solution)
    ]


def train_script():
    path = Path(__file__).parents[2] / "scripts" / "train_tiny_tokenizer.py"
    spec = importlib.util.spec_from_file_location("train_tiny_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tiny_round_trips_all_task_texts():
    for text in task_texts():
        assert TINY.decode(TINY.encode(text)) == text


@given(st.lists(st.sampled_from([*ALPHABET, "countdown ", "chain ", "\n\n", "  "]), max_size=30).map("".join))
@settings(max_examples=200)
def test_tiny_round_trips_any_text_over_its_alphabet(text):
    ids = TINY.encode(text)
    assert TINY.decode(ids) == text
    assert TINY.decode(np.array(ids, np.int32)) == text


def test_tiny_is_compact():
    assert TINY.vocab_size == 64
    assert len(TINY.encode("countdown 24: 3 5 8\n")) == 11
    assert len(TINY.encode("chain 7 +5 *3 -8\n")) == 12
    assert len(TINY.encode("8-5=3\n3*8=24\n")) == 13


def test_tiny_splits_digits():
    assert [TINY.pieces[token] for token in TINY.encode("1234567890")] == list("1234567890")


def test_tiny_has_distinct_control_tokens():
    control = [TINY.pad_id, *TINY.stop_ids, TINY.pieces.index("<unk>")]
    assert sorted(control) == [0, 1, 2]
    assert TINY.decode([TINY.pad_id, *TINY.encode("1=1\n"), *TINY.stop_ids, TINY.pad_id]) == "1=1\n"


def test_tiny_shows_unknown_ids_instead_of_hiding_them():
    unknown = TINY.pieces.index("<unk>")
    assert TINY.decode([*TINY.encode("1"), unknown, 64, *TINY.encode("2")]) == "1<unk><unk>2"


@pytest.mark.parametrize("text", ["Hello", "a|b", "\u2581", "<|end|>", "\r\n", "\t", "é"])
def test_tiny_refuses_text_that_could_not_come_back(text):
    with pytest.raises(ExtraError, match="has no piece for"):
        TINY.encode(text)


def test_tiny_model_file_is_what_the_script_trains():
    trained = sentencepiece.SentencePieceProcessor(model_proto=train_script().train())
    pieces = [trained.id_to_piece(token).replace("\u2581", " ") for token in range(trained.get_piece_size())]
    assert pieces == TINY.pieces


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_tiny_saves_a_folder_that_transformers_loads_with_the_same_ids(tmp_path, monkeypatch, beside_a_model):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    TINY.save(tmp_path)
    if beside_a_model:
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})
        )
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    again = load_tokenizer(tmp_path)
    assert (len(loaded), loaded.pad_token_id, loaded.eos_token_id) == (64, TINY.pad_id, TINY.stop_ids[0])
    assert (again.vocab_size, again.pad_id, again.stop_ids) == (64, TINY.pad_id, TINY.stop_ids)
    for text in [*task_texts(50), " \n countdowncountdown chain\n\n  <unk> chain  1", ALPHABET, ""]:
        ids = TINY.encode(text)
        assert loaded(text)["input_ids"] == again.encode(text) == ids
        assert loaded.decode(ids, skip_special_tokens=True) == again.decode(ids) == text
    assert again.decode([6, 2, 1]) == TINY.decode([6, 2, 1])
    assert again.encode_target("1=1\n") == TINY.encode_target("1=1\n")


def test_tiny_takes_text_prompts_only():
    assert TINY.encode_prompt("chain 7 +5\n") == TINY.encode("chain 7 +5\n")
    with pytest.raises(ExtraError, match="has no chat template"):
        TINY.encode_prompt(({"role": "user", "content": "chain 7 +5\n"},))
    with pytest.raises(ExtraError, match="remove chat_template_kwargs"):
        load_tokenizer("tiny", {"enable_thinking": False})


def test_tiny_target_ends_with_exactly_one_stop_token():
    assert TINY.encode_target("1=1\n") == [*TINY.encode("1=1\n"), *TINY.stop_ids]
    assert TINY.encode_target("") == list(TINY.stop_ids)


def test_a_missing_model_file_is_refused(tmp_path):
    with pytest.raises(ExtraError, match="no such file"):
        SentencePieceTokenizer(tmp_path / "absent.model")


def test_hf_round_trips_and_skips_special_tokens(tmp_path):
    tokenizer = load_tokenizer(hf_folder(tmp_path))
    text = "A ,  b!\n\tçè 数 <no> it 's"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(np.array(tokenizer.encode(f"<|start|>{text}<|end|><|pad|>"))) == text
    assert tokenizer.vocab_size == 259


def test_hf_text_prompt_becomes_one_user_message(tmp_path):
    tokenizer = load_tokenizer(hf_folder(tmp_path))
    expected = tokenizer.encode("<|start|>user\nhi<|end|><|start|>assistant")
    assert tokenizer.encode_prompt("hi") == expected
    assert tokenizer.encode_prompt(({"role": "user", "content": "hi"},)) == expected
    chat = ({"role": "system", "content": "s"}, {"role": "user", "content": "hi"})
    assert tokenizer.encode_prompt(chat) == [*tokenizer.encode("<|start|>system\ns<|end|>"), *expected]


def test_hf_chat_template_kwargs_reach_the_template(tmp_path):
    hf_folder(tmp_path)
    off, on = (load_tokenizer(tmp_path, {"enable_thinking": value}) for value in (False, True))
    assert off.encode_prompt("hi") == on.encode_prompt("hi") + off.encode("<no>")
    assert on.encode_prompt("hi") == load_tokenizer(tmp_path).encode_prompt("hi")


def test_hf_without_a_template_sends_text_as_it_is(tmp_path):
    tokenizer = load_tokenizer(hf_folder(tmp_path, template=None))
    assert tokenizer.encode_prompt("hi\n") == tokenizer.encode("hi\n")
    with pytest.raises(ExtraError, match="has no chat template"):
        tokenizer.encode_prompt(({"role": "user", "content": "hi"},))
    with pytest.raises(ExtraError, match=r"has no effect, the chat template in .* does not exist"):
        load_tokenizer(tmp_path, {"enable_thinking": False})


@pytest.mark.parametrize(("name", "message"), [("enable_thinkin", "does not read it"), ("tokenize", "cannot be set")])
def test_hf_template_kwargs_without_effect_are_refused(tmp_path, name, message):
    with pytest.raises(ExtraError, match=message):
        load_tokenizer(hf_folder(tmp_path), {name: True})


def test_hf_a_chat_that_the_template_refuses_is_an_error_of_the_user(tmp_path):
    with pytest.raises(ExtraError, match=r"refuses roles .*too long"):
        load_tokenizer(hf_folder(tmp_path)).encode_prompt(({"role": "user", "content": "x"},) * 4)


@pytest.mark.parametrize(
    ("eos", "stop", "expected"),
    [
        ("<|end|>", None, ("<|end|>",)),
        ("<|end|>", 256, ("<|end|>", "<|pad|>")),
        ("<|end|>", [257, 256], ("<|end|>", "<|pad|>")),
        (None, [256, 257], ("<|pad|>", "<|end|>")),
    ],
)
def test_hf_stop_ids_join_tokenizer_and_generation_config(tmp_path, eos, stop, expected):
    tokenizer = load_tokenizer(hf_folder(tmp_path, eos=eos, stop=stop))
    assert tokenizer.stop_ids == tuple(256 + SPECIAL.index(piece) for piece in expected)


@pytest.mark.parametrize(
    ("eos", "stop", "message"),
    [
        (None, None, "names no stop token"),
        ("<|end|>", 4096, "eos_token_id 4096 is no token"),
        ("<|end|>", ["<|end|>"], "is no token of this tokenizer"),
    ],
)
def test_hf_without_a_usable_stop_id_is_refused(tmp_path, eos, stop, message):
    with pytest.raises(ExtraError, match=message):
        load_tokenizer(hf_folder(tmp_path, eos=eos, stop=stop))


def test_hf_pad_may_be_missing_or_equal_eos(tmp_path):
    for name, pad in (("same", "<|end|>"), ("none", None)):
        tokenizer = load_tokenizer(hf_folder(tmp_path / name, pad=pad))
        assert (tokenizer.pad_id,) == tokenizer.stop_ids


def test_hf_target_ends_with_exactly_one_stop_token(tmp_path):
    tokenizer = load_tokenizer(hf_folder(tmp_path, stop=[257, 256]))
    expected = [*tokenizer.encode("hi"), tokenizer.stop_ids[0]]
    for text in ("hi", "hi<|end|>", "hi<|pad|>", "hi<|end|><|end|>"):
        assert tokenizer.encode_target(text) == expected
    with pytest.raises(ExtraError, match="stop token in its middle"):
        tokenizer.encode_target("hi<|end|>there")


def test_hf_save_keeps_ids_template_and_stop_ids(tmp_path):
    tokenizer = load_tokenizer(hf_folder(tmp_path / "from", stop=[257, 256]))
    tokenizer.save(tmp_path / "to")
    saved = load_tokenizer(tmp_path / "to")
    assert saved.encode_prompt("hi there\n") == tokenizer.encode_prompt("hi there\n")
    assert (saved.stop_ids, saved.pad_id, saved.vocab_size) == (
        tokenizer.stop_ids,
        tokenizer.pad_id,
        tokenizer.vocab_size,
    )
    assert AutoTokenizer.from_pretrained(str(tmp_path / "to")).chat_template == TEMPLATE


def test_folders_that_do_not_load_are_refused(tmp_path):
    with pytest.raises(ExtraError, match="there is no such folder"):
        HFTokenizer(tmp_path / "absent")
    with pytest.raises(ExtraError, match=r"does not load|has no tokenizer"):
        HFTokenizer(tmp_path)
    hf_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ExtraError, match="expected a JSON object"):
        HFTokenizer(tmp_path)


@given(st.lists(st.integers(0, 63), max_size=30))
def test_bytes_of_tokens_join_to_the_text_of_the_tiny_tokenizer(ids):
    tokenizer = load_tokenizer("tiny")
    table = tokenizer.token_bytes()
    assert b"".join(table[i] for i in ids).decode() == tokenizer.decode(ids)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A byte-level BPE with merges, special and ordinary added tokens, as Qwen's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(["## Schritt é 中文 \n\n### next step"] * 50, trainer)
    core.add_tokens([AddedToken("<think>", special=False), AddedToken("<|end|>", special=True)])
    folder = tmp_path_factory.mktemp("byte_level")
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>").save_pretrained(folder)
    return load_tokenizer(folder)


@given(st.data())
def test_bytes_of_tokens_join_to_the_text_of_a_byte_level_tokenizer(byte_level, data):
    # Any ids, so also sequences whose bytes are no valid UTF-8.
    ids = data.draw(st.lists(st.integers(0, byte_level.vocab_size - 1), max_size=30))
    table = byte_level.token_bytes()
    assert b"".join(table[i] for i in ids).decode(errors="replace") == byte_level.decode(ids)
    assert byte_level.token_bytes()[byte_level.stop_ids[0]] == b""
