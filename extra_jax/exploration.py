"""What the training loop knows of exploration: prompts before a step, advantages after it, and a state to save.

The loop is handed an ``Exploration`` and imports nothing of ``explore/``. The base class is plain GRPO.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Request, Rollouts


@dataclass(frozen=True)
class PromptRequest:
    """One prompt of a step; a group of completions is drawn for it.

    Attributes:
        problem: what is asked, and what the completions are graded against.
        prefix_ids: the beginning of the answer, given: completions continue after it and are graded with it; no loss.
        prefix_in_prompt: whether the prefix uses up room of the prompt; else it uses up room of the completion.
        lineage: what whoever made the request wants to find again after the step.
    """

    problem: Problem
    prefix_ids: tuple[int, ...] = ()
    prefix_in_prompt: bool = False
    lineage: Any = None


def make_requests(
    prompts: Sequence[PromptRequest], prompt_ids: Mapping[str, Sequence[int]], num_samples: int, first: int
) -> list[Request]:
    """What the sampler is asked about the ``prompts`` of this process, which follow ``first`` others of the step.

    Ids count through the whole step, whatever the number of processes; ``prompt_ids`` are by uid.
    """
    requests = []
    for number, prompt in enumerate(prompts, start=first):
        ids, prefix = prompt_ids[prompt.problem.uid], prompt.prefix_ids
        if prompt.prefix_in_prompt:
            ids, prefix = [*ids, *prefix], ()
        requests.append(Request(ids, num_samples, number * num_samples, prefix_ids=prefix))
    return requests


class Explored(NamedTuple):
    """What exploration made of a step.

    Attributes:
        advantages: ``[R]`` f64, of this process's completions.
        metrics: further numbers of the step, the same on every process.
        columns: further columns of the rollout records, name -> ``[R]`` JSON values.
    """

    advantages: np.ndarray
    metrics: Mapping[str, float] = MappingProxyType({})
    columns: Mapping[str, Sequence[Any]] = MappingProxyType({})


class Exploration:
    """None: the next problems, and the estimator's advantages. Those that explore override it (``explore/``).

    Every process calls everything together and holds the same state.
    """

    def prompts(self, draw: Callable[[int], list[Problem]], step: int, count: int) -> list[PromptRequest]:
        """The ``count`` prompts of a whole step, the same on every process; ``draw(n)`` takes the next n problems."""
        return [PromptRequest(problem) for problem in draw(count)]

    def spans(self, rollouts: Rollouts) -> np.ndarray | None:
        """``[R, 2]`` completion tokens whose mean hidden state ``advantages`` wants; ``None``: it wants none."""
        return None

    def advantages(
        self,
        requests: list[PromptRequest],
        rollouts: Rollouts,
        scores: Scores,
        advantages: np.ndarray,
        hidden: np.ndarray | None,
        step: int,
    ) -> Explored:
        """From the estimator's ``advantages [R]`` to those that are learned from.

        Args:
            requests: of the whole step, as ``prompts`` gave them.
            rollouts: ``R`` completions of this process.
            scores: of these completions.
            advantages: ``[R]`` of the estimator.
            hidden: ``[R, D]`` mean hidden states over ``spans``, or ``None`` with them.
            step: of the run, from 0.
        """
        return Explored(advantages)

    def state(self) -> dict[str, Any] | None:
        """A tree of arrays, numbers and texts for the checkpoint; ``None`` where there is nothing to save."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continues where ``state`` was called."""


MakeExploration = Callable[[Sequence[Problem], Mapping[str, list[int]], Tokenizer], Exploration]
"""(all training problems, token ids of their prompts by uid, tokenizer) -> what the run explores with; called once,
before the first step."""
