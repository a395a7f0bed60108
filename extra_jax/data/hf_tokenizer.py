"""The tokenizer of a Hugging Face folder: its chat template, its stop tokens, and what may be in its files."""

import inspect
import json
import logging
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extra_jax.data.problem import Prompt
from extra_jax.errors import ExtraError
from extra_jax.files import read_json_object, write_file

_GENERATION_CONFIG = "generation_config.json"
_LARGEST_VOCABULARY = 2**22  # ten times that of any model; tables have an entry per token
_RENDER_SECONDS = 10  # after which a chat template counts as one that never ends
_PRIVATE_USE = range(0xE000, 0xF900)  # characters that no text means anything by
_TURNS = re.compile(r"im_start|start_header_id|start_of_turn|\[INST\]|<\|user\|>")  # what begins a turn of a chat
_logger = logging.getLogger(__name__)


class HFTokenizer:
    """A fast tokenizer of `transformers`, from a local folder; nothing is fetched from the hub, no code of it is run.

    Stop tokens are the tokenizer's EOS and every ``eos_token_id`` of the folder's ``generation_config.json``
    (Qwen3: ``<|im_end|>`` and ``<|endoftext|>``), or of its ``config.json`` where that file names none. The pad token
    is the tokenizer's; where it has none, the first stop token, which is harmless for the reason given at `Tokenizer`.

    Only the chat template writes control tokens into a prompt: those that the text of a problem holds are text. Without
    a template, a prompt begins with the BOS token where the tokenizer puts one before every text, as Llama's does.

    Raises:
        ExtraError: The folder does not load, has no stop token or one outside the vocabulary, or a key of
            ``chat_template_kwargs`` is not read by its chat template.
    """

    def __init__(self, directory: str | Path, chat_template_kwargs: Mapping[str, Any] | None = None):
        self._directory = Path(directory)
        self._tokenizer = load_fast(self._directory, f"tokenizer {str(directory)!r}")
        added = self._tokenizer.added_tokens_decoder
        self._special = {token for token, piece in added.items() if piece.special} | set(
            self._tokenizer.all_special_ids
        )
        control = {str(self._tokenizer.convert_ids_to_tokens(token)) for token in self._special}
        longest_first = sorted((text for text in control if len(text) > 1), key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._warned = False
        self._template = self._default_template()
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._check_template_kwargs()
        starts = self._tokenizer.encode("")[:1]
        self._bos = starts if starts == [self._tokenizer.bos_token_id] else []
        self.vocab_size: int = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if self.vocab_size > _LARGEST_VOCABULARY:
            raise ExtraError(
                f"tokenizer {str(directory)!r} has a token with the number {self.vocab_size - 1:,}; at most "
                f"{_LARGEST_VOCABULARY:,} tokens are supported. Fetch its files again."
            )
        self._generation_config = self._read_settings(_GENERATION_CONFIG)
        self.stop_ids: tuple[int, ...] = self._read_stop_ids()
        pad_id = self._tokenizer.pad_token_id
        self.pad_id: int = self.stop_ids[0] if pad_id is None else pad_id
        if not self._template and (turn := _TURNS.search(" ".join(control))):
            _logger.warning(
                "%s has no chat template, although its tokenizer has %r for the turns of a chat: prompts are encoded "
                "as bare text. If the model was trained on chats, put its chat_template.jinja there.",
                self._directory,
                turn[0],
            )

    def encode(self, text: str) -> list[int]:
        with _panics_named(self._directory):
            return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        plain = [int(token) for token in ids]
        with _panics_named(self._directory):
            return self._tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_bytes(self) -> list[bytes]:
        ids = range(self.vocab_size)
        if '"ByteLevel"' not in json.dumps(json.loads(self._tokenizer.backend_tokenizer.to_str())["decoder"]):
            return [self.decode([token]).encode() for token in ids]
        added = self._tokenizer.added_tokens_decoder
        byte_of = {character: byte for byte, character in _byte_characters().items()}
        table = []
        for token, piece in enumerate(self._tokenizer.convert_ids_to_tokens(list(ids))):
            if token in self._special or piece is None:
                table.append(b"")
            elif token in added or not byte_of.keys() >= set(piece):
                table.append(piece.encode())
            else:
                table.append(bytes(byte_of[character] for character in piece))
        return table

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        if not self._template:
            text = text_only(prompt, f"the tokenizer in {self._directory}")
            self._warn_of_control_tokens(text)
            return self._bos + self._encode_as_text(text)
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        written = " ".join(str(value) for message in chat for value in message.values())
        if not self._warn_of_control_tokens(written):
            return self.encode(self._render(chat))
        # A mark within a control token tells that somebody wrote it from those that the template writes.
        mark = next(chr(code) for code in _PRIVATE_USE if chr(code) not in written)
        marked = [{key: self._marked(value, mark) for key, value in message.items()} for message in chat]
        ids: list[int] = []
        for number, piece in enumerate(self._control.split(self._render(marked))):
            is_control = number % 2 == 1
            ids += [self._tokenizer.convert_tokens_to_ids(piece)] if is_control else self._encode_as_text(piece, mark)
        return ids

    def encode_target(self, text: str) -> list[int]:
        return end_with_one_stop(self.encode(text), self.stop_ids, text)

    def save(self, directory: str | Path) -> None:
        self._tokenizer.save_pretrained(str(directory))
        # Part of the stop ids may come from here; without it a reloaded folder would have fewer.
        if self._generation_config and not (Path(directory) / _GENERATION_CONFIG).exists():
            write_file(Path(directory) / _GENERATION_CONFIG, json.dumps(self._generation_config, indent=2) + "\n")

    def _encode_as_text(self, text: str, mark: str = "") -> list[int]:
        plain = text.replace(mark, "") if mark else text
        with _panics_named(self._directory):
            return self._tokenizer.encode(plain, add_special_tokens=False, split_special_tokens=True)

    def _marked(self, value: Any, mark: str) -> Any:
        return self._control.sub(lambda m: m[0][0] + mark + m[0][1:], value) if isinstance(value, str) else value

    def _warn_of_control_tokens(self, text: str) -> bool:
        """Whether the text of a prompt holds control tokens; says so once."""
        token = self._control.search(text)
        if token and not self._warned:
            self._warned = True
            _logger.warning("a prompt holds %s, a control token of this tokenizer; in prompts it is text", token[0])
        return token is not None

    def _render(self, chat: list[dict[str, Any]]) -> str:
        try:
            with _time_bound(_RENDER_SECONDS):
                return self._tokenizer.apply_chat_template(
                    chat,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=True,
                    **self._template_kwargs,
                )
        except Exception as error:  # the boundary to a program that came with the folder
            roles = [message["role"] for message in chat]
            raise ExtraError(
                f"the chat template in {self._directory} refuses roles {roles}: {type(error).__name__}: "
                f"{str(error)[:300].rstrip('.')}. Change the chat, or repair the template."
            ) from error

    def _default_template(self) -> str:
        template = self._tokenizer.chat_template or ""
        if isinstance(template, dict):  # named ones, for tools, retrieval and the like
            if "default" not in template:
                raise ExtraError(
                    f"{self._directory} has the chat templates {sorted(template)} and no 'default'; save the one to "
                    "train with as its chat_template.jinja."
                )
            template = template["default"]
        if not isinstance(template, str):
            raise ExtraError(f"the chat template in {self._directory} is {template!r:.60} and no text. Repair it.")
        return template

    def _check_template_kwargs(self) -> None:
        for name in self._template_kwargs:
            if name == "messages" or name in inspect.signature(self._tokenizer.apply_chat_template).parameters:
                raise ExtraError(f"chat_template_kwargs: {name!r} cannot be set here; remove it.")
            if not re.search(rf"\b{re.escape(name)}\b", self._template):
                has = "does not read it" if self._template else "does not exist"
                raise ExtraError(
                    f"chat_template_kwargs: {name!r} has no effect, the chat template in {self._directory} {has}. "
                    "Remove it, or check its spelling."
                )

    def _read_settings(self, name: str) -> dict[str, Any]:
        file = self._directory / name
        return read_json_object(file) if file.exists() else {}

    def _read_stop_ids(self) -> tuple[int, ...]:
        eos = self._tokenizer.eos_token_id
        stop_ids = [] if eos is None else [eos]
        source, further = _GENERATION_CONFIG, self._generation_config.get("eos_token_id")
        if further is None or further == []:
            source, further = "config.json", self._read_settings("config.json").get("eos_token_id")
        stop_ids += further if isinstance(further, list) else [] if further is None else [further]
        if not stop_ids:
            raise ExtraError(
                f"{self._directory} names no stop token, so no completion would ever end. Set eos_token in "
                f"tokenizer_config.json or eos_token_id in {_GENERATION_CONFIG}."
            )
        for stop in stop_ids:
            if type(stop) is not int or not 0 <= stop < self.vocab_size:
                raise ExtraError(
                    f"{self._directory / source}: eos_token_id {stop!r:.40} is no token of this tokenizer "
                    f"(0..{self.vocab_size - 1})."
                )
        return tuple(dict.fromkeys(stop_ids))


def load_fast(directory: Path, name: str) -> Any:
    """The fast tokenizer of a local folder, as `transformers` reads it; ``name`` is how errors call it.

    Raises:
        ExtraError: No such folder, or a file in it that cannot be read, or that names code to be run.
    """
    if not directory.is_dir():
        raise ExtraError(
            f"{name}: there is no such folder. Download the model first (`hf download ORG/NAME --local-dir FOLDER`) "
            f"and give the folder, or give 'tiny'."
        )
    for file in directory.iterdir():
        if file.suffix in (".json", ".jinja", ".txt", ".model") and not file.is_file():  # a broken link, too
            raise ExtraError(f"{name}: {file.name} is not an ordinary file. Fetch the folder again.")
    settings = directory / "tokenizer_config.json"
    if settings.exists() and (code := read_json_object(settings).get("auto_map")):
        raise ExtraError(
            f"{settings}: auto_map names Python code of the folder ({code!r:.80}), which is not run here. If "
            "tokenizer.json is complete without it, remove auto_map and set tokenizer_class to TokenizersBackend."
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        # Some settings fail only in use.
        tokenizer.decode(tokenizer.encode("What is 1 + 1?\n", add_special_tokens=False))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the boundary to readers of foreign files; a panic of a Rust one is no Exception
        raise ExtraError(
            f"{name} does not load: {type(error).__name__}: {str(error)[:300].rstrip('.')}. Fetch its files again."
        ) from error
    if not tokenizer.is_fast or len(tokenizer) < 2:  # without a vocabulary, transformers makes one of a single token
        raise ExtraError(f"{name} has no tokenizer.json. Fetch it, or convert the folder to a fast tokenizer first.")
    return tokenizer


@contextmanager
def _panics_named(directory: Path) -> Iterator[None]:
    """A panic of the library, which is written in Rust, as an error about the folder; it is no ``Exception``."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ExtraError(
            f"the tokenizer in {directory} fails on a text: {str(error)[:300].rstrip('.')}. Fetch its files again."
        ) from error


@contextmanager
def _time_bound(seconds: float) -> Iterator[None]:
    """Raises ``TimeoutError`` in a block that runs longer; only in the main thread, which alone has an alarm."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _byte_characters() -> dict[int, str]:
    """How byte-level BPE writes each byte as a visible character (GPT-2's ``bytes_to_unicode``)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def text_only(prompt: Prompt, owner: str) -> str:
    """A prompt for a tokenizer without a chat template."""
    if isinstance(prompt, str):
        return prompt
    raise ExtraError(f"{owner} has no chat template, but the prompt is a chat. Use text prompts and no system message.")


def end_with_one_stop(ids: list[int], stop_ids: tuple[int, ...], text: str) -> list[int]:
    """``ids`` of ``text``, and the first stop token in place of all at the end."""
    while ids and ids[-1] in stop_ids:
        ids = ids[:-1]
    if any(token in stop_ids for token in ids):
        raise ExtraError(
            f"the target {text[:60]!r} has a stop token in its middle; what follows could never be sampled. Remove it."
        )
    return [*ids, stop_ids[0]]
