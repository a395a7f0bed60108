"""Trains the tokenizer that comes with the package, on texts of the two generated tasks.

    python scripts/train_tiny_tokenizer.py [--output FILE]

The result has 64 pieces: three control pieces, the words ``"countdown "`` and ``"chain "``, and single
characters, ordered by how often the tasks use them. Small letters and some punctuation fill it up, so that a
short plain prompt of another kind can be written too. No normalisation, no dummy prefix: text comes back as it was.
"""

import argparse
import io
import string
from pathlib import Path

import sentencepiece

from extra_jax.data.tasks import chain, countdown
from extra_jax.data.tokenizer import TINY_MODEL_FILE

VOCAB_SIZE = 64
WORDS = ("countdown ", "chain ")
# `|` has to stay out: control pieces are written with it, so that no text can spell one.
CHARACTERS = string.digits + "+-*/=:" + string.ascii_lowercase + ".,()?!'\"<>_^{}\\"
_SPACE_MARK = "\u2581"


def task_texts(count: int = 2000) -> list[str]:
    """Prompts and reference solutions of both tasks, ``count`` problems each."""
    problems = [problem for task in (countdown, chain) for problem in task.generate(count, seed=0, split="train")]
    return [f"{problem.prompt}{problem.solution}" for problem in problems]


def train() -> bytes:
    """The serialised SentencePiece model."""
    # The trainer reads lines and never sees a newline, so that one is given as a symbol.
    lines = [line for text in task_texts() for line in text.splitlines()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="char",
        vocab_size=VOCAB_SIZE,
        character_coverage=1.0,
        required_chars=CHARACTERS,
        user_defined_symbols=[word.replace(" ", _SPACE_MARK) for word in WORDS] + ["\n"],
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<|pad|>",
        eos_piece="<|end|>",
        unk_surface="<unk>",
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Writes the model and prints its pieces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=TINY_MODEL_FILE)
    output = parser.parse_args().output
    model = train()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    print(f"{output}: {processor.get_piece_size()} pieces, {len(model)} bytes")
    print(" ".join(repr(processor.id_to_piece(token)) for token in range(processor.get_piece_size())))


if __name__ == "__main__":
    main()
