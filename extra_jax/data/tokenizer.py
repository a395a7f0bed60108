"""Tokenizers: a Hugging Face folder, or the tiny one that comes with the package."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from extra_jax.data.problem import Prompt
from extra_jax.errors import ExtraError

TINY = "tiny"
"""Name of the embedded tokenizer, wherever a tokenizer folder can be given."""

TINY_MODEL_FILE = Path(__file__).parents[1] / "assets" / "tiny_tokenizer" / "tokenizer.model"

_GENERATION_CONFIG = "generation_config.json"
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


class HFTokenizer:
    """A fast tokenizer of `transformers`, from a local folder; nothing is fetched from the hub.

    Stop tokens are the tokenizer's EOS and every ``eos_token_id`` of the folder's ``generation_config.json``
    (Qwen3: ``<|im_end|>`` and ``<|endoftext|>``). The pad token is the tokenizer's; where it has none, the
    first stop token, which is harmless for the reason given at `Tokenizer`.

    Raises:
        ExtraError: The folder does not load, has no stop token or one outside the vocabulary, or a key of
            ``chat_template_kwargs`` is not read by its chat template.
    """

    def __init__(self, directory: str | Path, chat_template_kwargs: Mapping[str, Any] | None = None):
        self._directory = Path(directory)
        self._tokenizer = _load_fast(self._directory)
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._check_template_kwargs()
        self.vocab_size: int = len(self._tokenizer)
        self.stop_ids: tuple[int, ...] = self._read_stop_ids()
        pad_id = self._tokenizer.pad_token_id
        self.pad_id: int = self.stop_ids[0] if pad_id is None else pad_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        plain = [int(token) for token in ids]
        return self._tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_bytes(self) -> list[bytes]:
        ids = range(self.vocab_size)
        if '"ByteLevel"' not in json.dumps(json.loads(self._tokenizer.backend_tokenizer.to_str())["decoder"]):
            return [self.decode([token]).encode() for token in ids]
        special, added = set(self._tokenizer.all_special_ids), self._tokenizer.added_tokens_decoder
        byte_of = {character: byte for byte, character in _byte_characters().items()}
        table = []
        for token, piece in enumerate(self._tokenizer.convert_ids_to_tokens(list(ids))):
            if token in special or piece is None or (token in added and added[token].special):
                table.append(b"")
            elif token in added:
                table.append(piece.encode())
            else:
                table.append(bytes(byte_of[character] for character in piece))
        return table

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        if not self._tokenizer.chat_template:
            return self.encode(_text_only(prompt, f"the tokenizer in {self._directory}"))
        import jinja2

        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        try:
            text = self._tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **self._template_kwargs
            )
        except jinja2.TemplateError as error:
            roles = [message["role"] for message in chat]
            raise ExtraError(f"the chat template in {self._directory} refuses roles {roles}: {error}") from error
        return self.encode(text)

    def encode_target(self, text: str) -> list[int]:
        return _end_with_one_stop(self.encode(text), self.stop_ids, text)

    def save(self, directory: str | Path) -> None:
        self._tokenizer.save_pretrained(str(directory))
        # Part of the stop ids may come from here; without it a reloaded folder would have fewer.
        settings, copy = self._directory / _GENERATION_CONFIG, Path(directory) / _GENERATION_CONFIG
        if settings.is_file() and not copy.exists():
            shutil.copyfile(settings, copy)

    def _check_template_kwargs(self) -> None:
        template = self._tokenizer.chat_template or ""
        for name in self._template_kwargs:
            if not isinstance(template, str) or name in ("tokenize", "add_generation_prompt", "messages"):
                raise ExtraError(f"chat_template_kwargs: {name!r} cannot be set here; remove it.")
            if not re.search(rf"\b{re.escape(name)}\b", template):
                has = "does not read it" if template else "does not exist"
                raise ExtraError(
                    f"chat_template_kwargs: {name!r} has no effect, the chat template in {self._directory} {has}. "
                    "Remove it, or check its spelling."
                )

    def _read_stop_ids(self) -> tuple[int, ...]:
        eos = self._tokenizer.eos_token_id
        stop_ids = [] if eos is None else [eos]
        file = self._directory / _GENERATION_CONFIG
        if file.is_file():
            try:
                further = json.loads(file.read_text("utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise ExtraError(f"{file} is no JSON object: {error}. Fetch it again, or remove it.") from error
            stop_ids += further if isinstance(further, list) else [] if further is None else [further]
        if not stop_ids:
            raise ExtraError(
                f"{self._directory} names no stop token, so no completion would ever end. Set eos_token in "
                f"tokenizer_config.json or eos_token_id in {_GENERATION_CONFIG}."
            )
        for stop in stop_ids:
            if type(stop) is not int or not 0 <= stop < self.vocab_size:
                raise ExtraError(
                    f"{file}: eos_token_id {stop!r} is no token of this tokenizer (0..{self.vocab_size - 1})."
                )
        return tuple(dict.fromkeys(stop_ids))


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
        return self.encode(_text_only(prompt, f"the {TINY} tokenizer"))

    def encode_target(self, text: str) -> list[int]:
        return _end_with_one_stop(self.encode(text), self.stop_ids, text)

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


def _load_fast(directory: Path) -> Any:
    if not directory.is_dir():
        raise ExtraError(
            f"tokenizer {str(directory)!r}: there is no such folder. Download the model first "
            f"(`hf download ORG/NAME --local-dir FOLDER`) and give the folder, or give {TINY!r}."
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ExtraError(f"tokenizer {str(directory)!r} does not load: {error}") from error
    if not tokenizer.is_fast:
        raise ExtraError(f"tokenizer {str(directory)!r} has no tokenizer.json. Convert it to a fast tokenizer first.")
    return tokenizer


def _byte_characters() -> dict[int, str]:
    """How byte-level BPE writes each byte as a visible character (GPT-2's ``bytes_to_unicode``)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def _text_only(prompt: Prompt, owner: str) -> str:
    if isinstance(prompt, str):
        return prompt
    raise ExtraError(f"{owner} has no chat template, but the prompt is a chat. Use text prompts and no system message.")


def _end_with_one_stop(ids: list[int], stop_ids: tuple[int, ...], text: str) -> list[int]:
    while ids and ids[-1] in stop_ids:
        ids = ids[:-1]
    if any(token in stop_ids for token in ids):
        raise ExtraError(
            f"the target {text[:60]!r} has a stop token in its middle; what follows could never be sampled. Remove it."
        )
    return [*ids, stop_ids[0]]
