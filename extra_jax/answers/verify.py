"""From two texts to a verdict: clean, read, compare, and say what went wrong."""

from extra_jax.answers import symbolic
from extra_jax.answers.compare import Comparison
from extra_jax.answers.extract import gold_answer
from extra_jax.answers.latex import clean
from extra_jax.answers.read import read
from extra_jax.answers.shape import Combined, Conditional, Group, Interval, Matrix, Opaque, Ratio, Relation, Shape
from extra_jax.answers.symbolic import GoldUnreadable
from extra_jax.answers.tokens import Reading, open_questions
from extra_jax.answers.verdict import Verdict
from extra_jax.answers.vocabulary import TooLarge, Unreadable
from extra_jax.answers.words import is_prose

PROSE = "a worked solution without a final answer: give the answer alone or in \\boxed{}"


def verify(gold: str, answer: str, *, allow_unevaluated: bool = False) -> tuple[Verdict, str]:
    """Verdict on the text of an answer, with one sentence of explanation where it is not plain.

    Args:
        gold: The reference answer as LaTeX or plain text, or a worked solution that boxes it.
        answer: Content of the box.
        allow_unevaluated: Accept arithmetic that is left undone where the gold is a number.
    """
    try:
        expected = clean(gold_answer(gold))
        golds = readings(expected)
    except TooLarge as error:
        return Verdict.GOLD_UNPARSEABLE, str(error)
    try:
        got = clean(answer)
        if expected and expected == got:
            return Verdict.CORRECT, ""
        if is_prose(expected):
            return Verdict.GOLD_UNPARSEABLE, PROSE
        answers = readings(got)
    except TooLarge as error:
        return Verdict.WRONG, str(error)
    return decide(golds, answers, allow_unevaluated)


def gold_problem(gold: str) -> str:
    """Why a gold cannot be graded against, or ``""``; for checking data before a run."""
    try:
        text = clean(gold_answer(gold))
        if not text:
            return "empty gold"
        if is_prose(text):
            return PROSE
        problems = [_unread(shape) for shape in readings(text)]
    except TooLarge as error:
        return str(error)
    return "" if "" in problems else problems[0]


def readings(text: str) -> list[Shape]:
    """The different shapes of a cleaned text, most usual first; an unreadable one only when there is no other."""
    shapes: list[Shape] = []
    for reading in open_questions(text) or [Reading()]:
        shape = read(text, reading)
        if shape not in shapes:
            shapes.append(shape)
    read_well: list[Shape] = [shape for shape in shapes if not isinstance(shape, Opaque)]
    return read_well or shapes[:1]


def decide(golds: list[Shape], answers: list[Shape], allow_unevaluated: bool) -> tuple[Verdict, str]:
    """Verdict and detail for all readings of a gold and of an answer: one pair that agrees is enough."""
    notes: list[str] = []
    unread = ""
    for gold in golds:
        for answer in answers:
            comparison = Comparison(allow_unevaluated=allow_unevaluated)
            try:
                if comparison.same(gold, answer):
                    return Verdict.CORRECT, ""
            except GoldUnreadable as error:
                unread = str(error)
            except Unreadable as error:
                comparison.notes.append(f"not read: {error}")
            notes += comparison.notes
    unread = unread or next((problem for gold in golds if (problem := _unread(gold))), "")
    if unread:
        return Verdict.GOLD_UNPARSEABLE, f"gold not read: {unread}"
    first = answers[0]
    if not notes and isinstance(first, Opaque):
        notes.append(f"not read: {first.reason}")
    return Verdict.WRONG, notes[0] if notes else ""


def _unread(shape: Shape) -> str:
    """The reason why a part of a gold cannot be read, or ``""``."""
    match shape:
        case Opaque():
            return "" if symbolic.parse(shape.text) else shape.reason
        case Group():
            parts: tuple[Shape, ...] = shape.items
        case Conditional():
            parts = (shape.value,)
        case Interval():
            parts = (shape.low, shape.high)
        case Combined() | Ratio():
            parts = shape.parts
        case Relation():
            parts = shape.sides[-1:]
        case Matrix():
            parts = tuple(cell for row in shape.rows for cell in row)
        case _:
            parts = ()
    return next((reason for part in parts if (reason := _unread(part))), "")
