"""Pieces of text for token ids, with the tokenizer of the run, loaded once and without jax."""

import codecs
import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extra_jax.config.yaml_tree import parse_yaml
from extra_jax.errors import ExtraError
from extra_jax.files import read_text
from extra_jax.telemetry.files import CONFIG_FILE

_EMBEDDED = (None, "tiny-base")  # models whose tokenizer comes with the package
_SEEDS_DIFFER = re.compile(r"^(?:run|logging):\n(?: .*\n)*", re.MULTILINE)  # sections of a saved configuration
_logger = logging.getLogger(__name__)


class Pieces:
    """The text of tokens.

    Attributes:
        missing: Why there is none, for a person; empty where there is.
    """

    def __init__(self, tree: dict[str, Any], run: Path):
        self._tree, self._run = tree, run
        self._table: list[bytes] | None = None
        self._lock = threading.Lock()
        self.missing = ""

    def table(self) -> list[bytes] | None:
        """The bytes of each token; ``None`` where the tokenizer does not load (``missing`` says why)."""
        with self._lock:
            if self._table is None and not self.missing:
                self._load()
            return self._table

    def _load(self) -> None:
        from extra_jax.data.tokenizer import TINY, load_tokenizer

        model = setting(self._tree, "model", "path")
        path = setting(self._tree, "tokenizer", "path") or (TINY if model in _EMBEDDED else model)
        export = self._run / "export"
        wanted = [str(path), *([str(export)] if (export / "tokenizer.json").is_file() else [])]
        said = []
        for place in wanted:
            try:
                self._table = load_tokenizer(place).token_bytes()
                return
            except (ExtraError, ImportError) as error:  # without jax, packages of tokenizers may be missing, too
                said.append(str(error))
        self.missing = f"The tokenizer of this run does not load, so texts are shown without tokens. {said[0]}"
        _logger.warning(self.missing)

    def __call__(self, ids: Any) -> list[str | None] | None:
        """The text of each token; ``None`` for one that has none (a stop token), or for all without a tokenizer.

        A character of several tokens is the text of its last one; the others are empty.
        """
        table = self.table()
        if table is None or not isinstance(ids, Sequence):
            return None
        if not all(isinstance(token, int) and 0 <= token < len(table) for token in ids):
            return None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces: list[str | None] = [decoder.decode(table[token]) if table[token] else None for token in ids]
        if (rest := decoder.decode(b"", final=True)) and pieces:
            last = max(index for index, token in enumerate(ids) if table[token])
            pieces[last] = f"{pieces[last]}{rest}"
        return pieces


def read_settings(run: Path) -> tuple[dict[str, Any], str, str]:
    """The settings of a run as a plain tree, so that those of an older version are read, too.

    Returns:
        The tree; what two seeds of one arm have in common; what is wrong with the file.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        return {}, str(run), ""
    try:
        written = read_text(path)
        tree = parse_yaml(written, str(path))
    except ExtraError as error:
        return {}, str(run), str(error)
    return tree if isinstance(tree, dict) else {}, _SEEDS_DIFFER.sub("", written), ""


def setting(tree: Any, *keys: str) -> Any:
    """A value of a plain tree; ``None`` where it is not set."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
