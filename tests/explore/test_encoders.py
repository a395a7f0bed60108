"""Encoders: parity with the torch model, windows of long text, and what text they are given."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from explore.steps import CHARACTERS, rollouts_with
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.errors import ExtraError
from extra_jax.explore.encoders import (
    MINILM_PACKAGE,
    SPAN_TOKENS,
    EncoderSettings,
    HashedNgramEncoder,
    completion_text,
    make_encoder,
    token_spans,
)
from extra_jax.model import minilm
from extra_jax.model.minilm import MiniLMEncoder

TEXTS = ["Let x be 3", "x", "", "so the sum of a and b is 12 , so c is 7 " * 3, "find the area of the circle"]
WORDS = sorted({word for text in TEXTS for word in text.lower().split()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT, saved by ``transformers`` the way all-MiniLM-L6-v2 is."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def reference(folder: Path, texts: list[str], limit: int) -> np.ndarray:
    """Mean pooling over real pieces and L2 norm, as sentence-transformers does it, text by text."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state[0]
        rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(rows)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few texts are several batches."""
    monkeypatch.setattr(minilm, "_WINDOWS_PER_DEVICE", 1)


def test_minilm_is_the_torch_model(folder):
    encoder = MiniLMEncoder(folder)
    texts = TEXTS * 3  # more than a batch of eight devices
    np.testing.assert_allclose(encoder.encode(texts), reference(folder, texts, 256), atol=1e-5)
    assert encoder.size == 32
    assert encoder.truncated == 0
    assert encoder.encode([]).shape == (0, 32)


def test_the_vector_of_a_text_does_not_depend_on_the_others(folder):
    encoder = MiniLMEncoder(folder)
    together, apart = encoder.encode(TEXTS), np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_truncation_sees_the_beginning_and_chunk_mean_all_of_it(folder, monkeypatch):
    monkeypatch.setattr(minilm, "_MAX_PIECES", 12)
    text = TEXTS[3]
    words = text.split()
    cut = MiniLMEncoder(folder, truncate=True)
    np.testing.assert_allclose(cut.encode([text, "x"]), reference(folder, [text, "x"], 12), atol=1e-5)
    assert cut.truncated == 1
    np.testing.assert_allclose(cut.encode([text]), cut.encode([" ".join(words[:10])]), atol=1e-6)
    whole = MiniLMEncoder(folder)
    windows = [" ".join(words[i : i + 10]) for i in range(0, len(words), 10)]
    mean = reference(folder, windows, 64).mean(axis=0)
    np.testing.assert_allclose(whole.encode(["x", text])[1], mean / np.linalg.norm(mean), atol=1e-5)
    assert whole.truncated == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"no config.json there; give the folder of all-MiniLM-L6-v2"),
        (lambda f: (f / "config.json").write_text("{}"), r"config\.json:\n  vocab_size: Field required"),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut"), "fetch the model again"),
    ],
)
def test_a_damaged_folder_is_refused(folder, tmp_path, damage, message):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(ExtraError, match=message):
        MiniLMEncoder(tmp_path)


def test_a_model_with_too_few_positions_is_refused(folder, monkeypatch):
    monkeypatch.setattr(minilm, "_MAX_PIECES", 257)
    with pytest.raises(ExtraError, match="the model has 256 positions, windows have 257"):
        MiniLMEncoder(folder)


def test_without_weights_nothing_else_is_used_in_their_place(monkeypatch):
    monkeypatch.setattr("extra_jax.explore.encoders.find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"give their folder as explore.encoder.path, install them .* or choose"):
        make_encoder(EncoderSettings())
    with pytest.raises(ExtraError, match=r"no config.json there"):
        make_encoder(EncoderSettings(path="/nowhere"))


def test_the_encoder_that_settings_name_is_loaded_once():
    settings = EncoderSettings(name="hashed_ngram", size=32)
    assert make_encoder(settings) is make_encoder(EncoderSettings(name="hashed_ngram", size=32))
    assert make_encoder(settings).encode(["a b"]).shape == (1, 32)
    assert make_encoder(EncoderSettings(name="policy_hidden")) is None, "reads no text"


def test_the_real_weights_are_the_torch_model():
    package = pytest.importorskip(MINILM_PACKAGE)
    texts = ["Let $x$ be the number.\n\nThen \\( x^2 = 49 \\).", "The answer is 7. " * 60]
    encoder = make_encoder(EncoderSettings(long_text="truncate"))
    np.testing.assert_allclose(encoder.encode(texts), reference(package.get_model_path(), texts, 256), atol=1e-4)


def test_hashed_ngrams_are_a_cosine_of_counts():
    encoder = HashedNgramEncoder(1 << 14)
    a, b, empty, same = encoder.encode(["8-5=3\n3*8=24\n", "8-5=3\n8*3=24\n", "", "8-5=3\n3*8=24\n"])
    assert a @ same == pytest.approx(1.0, abs=1e-6)
    assert (empty == 0).all()
    words = [["8", "-", "5", "=", "3", "\n", "3", "*", "8", "=", "24", "\n"]]
    words += [["8", "-", "5", "=", "3", "\n", "8", "*", "3", "=", "24", "\n"]]
    counts = [{}, {}]
    for count, text in zip(counts, words, strict=True):
        for gram in text + list(pairwise(text)):
            count[gram] = count.get(gram, 0) + 1
    shared = sum(np.log1p(counts[0][g]) * np.log1p(counts[1][g]) for g in counts[0].keys() & counts[1].keys())
    norms = [np.sqrt(sum(np.log1p(c) ** 2 for c in count.values())) for count in counts]
    assert a @ b == pytest.approx(shared / norms[0] / norms[1], abs=0.02)  # but for colliding hashes


def test_the_text_that_novelty_sees():
    tokenizer = load_tokenizer("tiny")
    ids = np.array(tokenizer.encode("8-5=3\n3*8=24\n"))
    assert completion_text(ids, tokenizer, "last") == "8-5=3\n3*8=24\n"
    long = np.tile(ids, 100)
    assert completion_text(long, tokenizer, "last") == tokenizer.decode(long[-SPAN_TOKENS:].tolist())
    assert completion_text(long, tokenizer, "full") == "8-5=3\n3*8=24\n" * 100


def test_after_think():
    ids = np.array(CHARACTERS.encode("a </think> b </think> so \\boxed{1}."))
    assert completion_text(ids, CHARACTERS, "after_think") == " so \\boxed{1}."
    without = np.array(CHARACTERS.encode("no thought"))
    assert completion_text(without, CHARACTERS, "after_think") == "no thought"


@pytest.mark.parametrize("span", ["last", "full", "after_think"])
def test_the_tokens_of_a_span_are_those_of_its_text(span, monkeypatch):
    monkeypatch.setattr("extra_jax.explore.encoders.SPAN_TOKENS", 5)
    tokenizer = load_tokenizer("tiny")
    texts = ["12+3=15\n", "</think>7*8=56\n", "1+2=3\n</think>4\n</think>\n5+6=11\n", "9+1</think>"]
    rollouts = rollouts_with([tokenizer.encode_target(text)[: None if "\n" in text else -1] for text in texts])
    spans = token_spans(rollouts, tokenizer, span)
    for row, (first, end) in enumerate(spans):
        ids = rollouts.completion_ids(row)
        assert tokenizer.decode(ids[first:end].tolist()) == completion_text(ids, tokenizer, span)
    assert (spans[3, 0] == spans[3, 1]) == (span == "after_think"), "nothing behind the thought: an empty span"
