"""Tokenizers: a Hugging Face folder, or the tiny one that comes with the package."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from extra_jax.data.hf_tokenizer import HFTokenizer, end_with_one_stop, text_only
from extra_jax.data.problem import Prompt
from extra_jax.errors import ExtraError

# We use tokenizers only; that PyTorch is not there need not be said.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

TINY = "tiny"
"""Name of the embedded tokenizer, wherever a tokenizer folder can be given."""

TINY_MODEL_FILE = Path(__file__).parents[1] / "assets" / "tiny_tokenizer" / "tokenizer.model"

# SentencePiece writes a space as this character inside pieces, so text must not hold it.
_SPACE_MARK = "\u2581"


class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes:
        vocab_size: Number of tokens; the embedding of a model may be padded beyond it.
        pad_id: Fills the shape of a batch and says nothing else. It may equal a stop id or even be an
            ordinary token, so a mask is made from lengths, never by comparing ids with it.
        stop_ids: Tokens that end a completion, at least one; the first is the one `encode_target` writes.
    """

    vocab_size: int
    pad_id: int
    stop_ids: tuple[int, ...]

    def __hash__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; nothing is put before or after."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are skipped."""
        ...

    def token_bytes(self) -> list[bytes]:
        """The UTF-8 bytes of each token; joined over a sequence they are its text. Special tokens have none."""
        ...

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, ready for the first completion token.

        With a chat template, text is one user message, and the turn of the assistant is opened; without one,
        text is encoded as it is, and a chat raises `ExtraError`.
        """
        ...

    def encode_target(self, text: str) -> list[int]:
        """Token ids of a completion to learn from: the text and exactly one stop token, at the end.

        Stop tokens that the text ends with count as that one; one in its middle raises `ExtraError`.
        """
        ...

    def save(self, directory: str | Path) -> None:
        """Writes the files with which ``transformers.AutoTokenizer.from_pretrained(directory)`` loads it."""
        ...


def load_tokenizer(path: str | Path, chat_template_kwargs: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a local Hugging Face folder, or the embedded one for ``"tiny"``.

    Args:
        chat_template_kwargs: Variables for the chat template, e.g. ``{"enable_thinking": False}``.

    Raises:
        ExtraError: No such folder, no stop token, or variables that no template reads.
    """
    if str(path) != TINY:
        return HFTokenizer(path, chat_template_kwargs)
    if chat_template_kwargs:
        raise ExtraError(f"the {TINY} tokenizer has no chat template; remove chat_template_kwargs.")
    return SentencePieceTokenizer(TINY_MODEL_FILE)


class SentencePieceTokenizer:
    """The embedded tokenizer of the task families: 64 pieces, nearly one a character, no chat template.

    ``"countdown "`` and ``"chain "`` are one piece each, digits are single, spaces and newlines are kept, and
    ``decode(encode(text)) == text`` for every text over its alphabet. A character outside it raises, as it
    could not come back. An unknown id is shown as ``<unk>`` and not skipped, so that a grader sees it.

    Args:
        model_file: A SentencePiece model made by ``scripts/train_tiny_tokenizer.py``.

    Raises:
        ExtraError: No such file.
    """

    def __init__(self, model_file: str | Path = TINY_MODEL_FILE):
        import sentencepiece

        if not Path(model_file).is_file():
            raise ExtraError(f"{model_file}: there is no such file. Run scripts/train_tiny_tokenizer.py.")
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        self.vocab_size: int = self._model.get_piece_size()
        self.pad_id: int = self._model.pad_id()
        self.stop_ids: tuple[int, ...] = (self._model.eos_id(),)

    @property
    def pieces(self) -> list[str]:
        """The pieces by id, with plain spaces."""
        return [self._model.id_to_piece(token).replace(_SPACE_MARK, " ") for token in range(self.vocab_size)]

    def encode(self, text: str) -> list[int]:
        ids = self._model.encode(text)
        if self._model.unk_id() in ids or _SPACE_MARK in text:
            alphabet = {piece for piece in self.pieces if len(piece) == 1}
            strange = next(character for character in text if character not in alphabet)
            raise ExtraError(
                f"the {TINY} tokenizer has no piece for {strange!r} in {text[:60]!r}. It is made for the generated "
                "tasks; set tokenizer.path to a Hugging Face folder for other text."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        skipped, known, unknown = {self.pad_id, *self.stop_ids}, range(self.vocab_size), self._model.unk_id()
        # A model may have more rows than the tokenizer has pieces; such an id is unknown, not an index error.
        plain = (int(token) for token in ids)
        return self._model.decode([token if token in known else unknown for token in plain if token not in skipped])

    def token_bytes(self) -> list[bytes]:
        return [self.decode([token]).encode() for token in range(self.vocab_size)]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        return self.encode(text_only(prompt, f"the {TINY} tokenizer"))

    def encode_target(self, text: str) -> list[int]:
        return end_with_one_stop(self.encode(text), self.stop_ids, text)

    def save(self, directory: str | Path) -> None:
        self._to_fast().save_pretrained(str(directory))

    def _to_fast(self) -> Any:
        """The same mapping as a `transformers` tokenizer.

        Characters become a BPE without merges; the two words are added tokens, which both libraries match first
        and from the left, as SentencePiece does with its user-defined symbols.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models
        from transformers import PreTrainedTokenizerFast

        pieces = self.pieces
        core = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], unk_token="<unk>"))
        core.decoder = decoders.Fuse()
        control = {self.pad_id, self._model.unk_id(), *self.stop_ids}
        words = [piece for token, piece in enumerate(pieces) if len(piece) > 1 and token not in control]
        core.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            eos_token=pieces[self.stop_ids[0]],
            pad_token=pieces[self.pad_id],
            clean_up_tokenization_spaces=False,
        )
