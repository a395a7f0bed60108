"""An advantage estimator of one's own: GRPO, where correct answers of a group share what they are worth.

Run it with

    extra-jax train configs/quickstart.yaml train.advantage=docs/examples/own_advantage.py:shared_answers

or with a setting: ``train.advantage={function: docs/examples/own_advantage.py:shared_answers, args: {strength: 0.5}}``.
"""

from collections import Counter

import numpy as np

from extra_jax.learn.estimators import grpo


def shared_answers(
    rewards: np.ndarray, valid: np.ndarray, correct: np.ndarray, answers: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """Divides the reward of a correct completion by the number of those with the same answer, to the ``strength``.

    For tasks with many right answers, such as countdown: the one that was given seven times pays each a seventh.

    Args:
        rewards: ``[P, G]``, NaN where not valid.
        valid: ``[P, G]`` bool.
        correct: ``[P, G]`` bool; the door supplies it because it is asked for by name.
        answers: ``[P, G]`` extracted answers, likewise.
        strength: from ``train.advantage.args``; 0 is GRPO.
    """
    shared = rewards.copy()
    for prompt in range(len(rewards)):
        right = np.flatnonzero(valid[prompt] & correct[prompt])
        times = Counter(answers[prompt, right])
        shared[prompt, right] /= [times[answer] ** strength for answer in answers[prompt, right]]
    return grpo(shared, valid)
