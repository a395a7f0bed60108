"""One problem: what the model is asked and what it is graded against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""

Prompt = str | tuple[Message, ...]
"""Plain text (sent as it is, or as one user message where a chat template is configured) or a chat."""


@dataclass(frozen=True)
class Problem:
    """A verifiable problem.

    Attributes:
        uid: Stable identity. Exploration memory, data cursors and rollout records are keyed by it.
        prompt: Text or chat messages; never contains the answer or the solution.
        answer: Ground truth that the grader compares with, as text.
        solution: Worked reference solution for SFT and for judges; the policy never sees it in RL.
        source: Name of the data set or task family, e.g. ``"gsm8k"`` or ``"countdown"``.
        meta: Further columns, kept for graders and records (numbers and target of a countdown, ...).
    """

    uid: str
    prompt: Prompt
    answer: str
    solution: str | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def prompt_text(prompt: Prompt, only: str | None = None) -> str:
    """A prompt as readable text: itself, or a chat with a ``[role]`` line above each message.

    Args:
        only: The role whose messages alone are wanted, such as ``user``; they come without that line.
    """
    if isinstance(prompt, str):
        return prompt
    if only is not None:
        return "\n\n".join(message["content"] for message in prompt if message["role"] == only)
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt)
