"""Grade a mathematical answer against its gold; the grader is called ``math/2``.

1. Take the text after the last ``</think>``; its last complete ``\\boxed{...}`` is the answer (``answers.extract``).
2. Integers, decimals and simple fractions on both sides are compared as exact rationals, here.
3. Everything else is read by kind and compared by ``answers.verify``: exact or arbitrary-precision values, sets as
   sets, pairs as pairs, and math-verify for notation of other kinds. A gold that is a number wants an answer that is
   worked out.

Model text is parsed, never evaluated as code. ``grade_math`` is a pure function; hostile input can make step 3 slow, so
a trainer calls it through ``workers.MathGrader``, which runs step 3 in killable processes.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from extra_jax.answers.extract import after_thinking, gold_answer, last_answer
from extra_jax.answers.verify import gold_problem, verify
from extra_jax.reward.verdict import Grade, Verdict

__all__ = ["NAME", "Options", "begin", "compare_task", "gold_problem", "grade_math", "warm_up"]

NAME = "math/2"

_NUMBER = re.compile(r"([-+]?)(\d{1,3}(?:(?:,(?:\\!)?|\{,\})\d{3})+|\d{1,300})?(?:\.(\d{0,300}))?")
_FRACTION = re.compile(r"([-+]?)(?:\\[dtc]?frac\{(-?\d{1,300})\}\{(-?\d{1,300})\}|(\d{1,300})/(\d{1,300}))")


@dataclass(frozen=True)
class Options:
    """How completions are read."""

    strict_thinking: bool = False  # Unclosed `<think>` means that there is no answer
    prompt_opens_thinking: bool = False  # The prompt already ended in `<think>` (Qwen3-Thinking-2507 templates)


def grade_math(gold: str, completion: str, options: Options = Options()) -> Grade:
    """Grades one completion in this process.

    An exception on the way becomes the verdict ``error`` with its text: it is never a silent zero.
    """
    started = begin(gold, completion, options)
    if isinstance(started, Grade):
        return started
    try:
        verdict, detail = verify(gold, started)
    except Exception as error:  # the boundary of the grader
        verdict, detail = Verdict.ERROR, f"{type(error).__name__}: {str(error)[:200]}"
    return Grade(verdict, started, NAME, detail)


def begin(gold: str, completion: str, options: Options) -> Grade | str:
    """The grade where no algebra is needed, else the answer that ``compare_task`` has to compare.

    Takes time linear in the length of the completion, whatever it holds.
    """
    if not gold.strip():
        return Grade(Verdict.GOLD_UNPARSEABLE, None, NAME, "empty gold")
    text = after_thinking(
        completion, strict=options.strict_thinking, prompt_opens_thinking=options.prompt_opens_thinking
    )
    if text is None:
        return Grade(Verdict.NO_ANSWER, None, NAME, "thinking was not closed")
    boxes = last_answer(text)
    if boxes is None:
        return Grade(Verdict.NO_ANSWER, None, NAME, "no complete box")
    expected, got = plain_rational(gold_answer(gold)), plain_rational(boxes.text)
    if expected is not None and got is not None:
        return Grade(Verdict.CORRECT if expected == got else Verdict.WRONG, boxes.text, NAME)
    return boxes.text


def plain_rational(text: str) -> Fraction | None:
    """The value of an integer, a decimal or a fraction of integers in plain digits, else ``None``."""
    if len(text) > 1000:
        return None
    text = text.strip().strip("$").strip().removesuffix(".")
    if (match := _NUMBER.fullmatch(text)) and (match[2] or match[3]):
        whole = re.sub(r"[^\d]", "", match[2] or "0")
        return Fraction(f"{match[1]}{whole}.{match[3] or '0'}")
    if match := _FRACTION.fullmatch(text):
        top, bottom = int(match[2] or match[4]), int(match[3] or match[5])
        return None if bottom == 0 else Fraction(-top if match[1] == "-" else top, bottom)
    return None


def compare_task(gold: str, answer: str, allow_unevaluated: bool = False) -> tuple[str, str, str]:
    """Verdict, answer and detail for an extracted answer, in JSON values: the task of a worker."""
    verdict, detail = verify(gold, answer, allow_unevaluated=allow_unevaluated)
    return verdict.value, answer, detail


def warm_up() -> None:
    """Import and exercise what ``compare_task`` needs, so that forked workers start warm."""
    compare_task(r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}")
    compare_task(r"\int_0^1 x\,dx + a", r"a + \int_0^1 x\,dx + 0")
