"""The outcomes of grading."""

from enum import StrEnum


class Verdict(StrEnum):
    """Outcome of grading one completion; a failure of the grader is never silently a zero."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    GOLD_UNPARSEABLE = "gold_unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"
