"""Grading while others still decode."""

from collections.abc import Callable, Sequence

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.reward.rewards import Rewards, Submitted
from extra_jax.reward.scores import Scores


class OverlappedGrading:
    """Takes completions as they finish and hands each to the graders at once; ``finished`` is what the sampler calls.

    The other reward functions are called once, by ``result``, with all completions of this process in order.

    Args:
        rewards: of the run.
        decode: token ids to text.
        problems: ``[R]``, the problem of each completion.
        prefixes: ``[R]``, the given beginning of each answer, which is graded with it; default: none.
    """

    def __init__(
        self,
        rewards: Rewards,
        decode: Callable[[Sequence[int]], str],
        problems: Sequence[Problem],
        prefixes: Sequence[Sequence[int]] | None = None,
    ):
        self._rewards, self._decode, self._problems = rewards, decode, problems
        self._prefixes = prefixes
        self._started: dict[int, Submitted] = {}

    def finished(self, row: int, token_ids: np.ndarray) -> None:
        """Starts grading the completion of ``row``; returns at once.

        Args:
            row: place of the completion in the result.
            token_ids: ``[length]``, without the prefix.

        Raises:
            ValueError: a row that does not exist or was given before.
        """
        if not 0 <= row < len(self._problems) or row in self._started:
            raise ValueError(f"row {row} of {len(self._problems)} was finished before, or there is none")
        prefix = [] if self._prefixes is None else list(self._prefixes[row])
        ids = [*prefix, *np.asarray(token_ids).tolist()]
        self._started[row] = self._rewards.submit([self._problems[row]], [self._decode(ids)], [ids])

    def result(self) -> tuple[list[str], Scores]:
        """``[R]`` texts and their scores in the order of the rows; waits for what is not there yet.

        Raises:
            ValueError: completions that never finished.
        """
        if missing := len(self._problems) - len(self._started):
            raise ValueError(f"{missing} of {len(self._problems)} completions never finished")
        rows = [self._started[row] for row in range(len(self._problems))]
        return [text for part in rows for text in part.completions], self._rewards.score(rows)
