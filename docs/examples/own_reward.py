"""An own reward: short answers earn more, as long as they are right.

extra-jax train configs/quickstart.yaml "reward.functions=[auto, docs/examples/own_reward.py:brevity]"
"""

from extra_jax.reward.door import completion_text


def brevity(completions, answer, **columns):
    """Up to 0.1 for a completion of few characters; ``None`` says nothing about one that does not hold the answer."""
    texts = [completion_text(completion) for completion in completions]
    return [0.1 / (1 + len(text) / 50) if gold in text else None for text, gold in zip(texts, answer, strict=True)]
