"""Settings of prefix regeneration. Source: ``docs/methods/extra.md``, "Prefix regeneration"."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from extra_jax.config.section import Section

Cut = Literal["contains_newline", "double_newline", "every", "as_released"]
Smoothing = Literal["embedding", "prefix_overlap", "none"]


class CutRules(Section):
    """Where a completion is cut."""

    cut: Cut = Field(
        "contains_newline",
        description="Behind which tokens: whose text holds a newline or an empty line; `every`: every so many tokens; "
        "`as_released`: the released newline ids, early cuts first, without the last.",
    )
    every: int = Field(64, ge=1, description="Tokens between cuts of `every`, and where the rule finds nothing.")
    min_gap: int = Field(32, ge=1, description="Tokens between two cuts.")
    max_cuts: int = Field(15, ge=1, description="Cuts of one completion: evenly spaced, with the first and the last.")
    min_tokens: int = Field(32, ge=0, description="Tokens of the shortest prefix.")
    max_fraction: float | None = Field(0.7, gt=0, le=1, description="Longest prefix, of its completion; null: any.")
    stop_at: tuple[str, ...] = Field(
        ("\\boxed",), description="No cut behind any of these texts: behind the answer there is nothing to regenerate."
    )

    def lengths(self, tokens: np.ndarray, table: np.ndarray) -> list[int]:
        """Lengths of the prefixes that a completion ``tokens [L]`` offers, ascending, by the ``newline_table``."""
        length = len(tokens)
        known = np.minimum(tokens, len(table) - 1)  # a model may have more rows than the tokenizer has tokens
        chosen = self._thinned(np.flatnonzero(table[known] & (tokens < len(table))) + 1, length)
        if not chosen and self.cut != "as_released":
            chosen = self._thinned(np.arange(self.every, length, self.every), length)
        return [cut for cut in chosen if cut < length]  # a whole completion leaves nothing to continue

    def _thinned(self, lengths: np.ndarray, completion: int) -> list[int]:
        longest = completion if self.max_fraction is None else int(self.max_fraction * completion)
        kept: list[int] = []
        for length in lengths[(lengths >= self.min_tokens) & (lengths <= longest)].tolist():
            if not kept or length - kept[-1] >= self.min_gap:
                kept.append(length)
        released = self.cut == "as_released"
        if released and len(kept) > 1:
            kept.pop()
        if len(kept) <= self.max_cuts:
            return kept
        if released:
            return [kept[i * len(kept) // self.max_cuts] for i in range(self.max_cuts)]
        return [kept[i] for i in np.linspace(0, len(kept) - 1, self.max_cuts).round().astype(int)]


class PrefixSettings(CutRules):
    """What ``prefixes`` takes: when a prompt comes back, with the beginning of which attempt, and how often."""

    guided_fraction: float = Field(1 / 32, gt=0, lt=1, description="Share of a step's prompts given to guided ones.")
    hard_max_correct: int = Field(
        1, ge=0, description="A prompt is hard with at most so many correct completions, easy with so many wrong ones."
    )
    max_truncated: float | None = Field(
        0.5, gt=0, le=1, description="A group with this share cut at the length cap is only long; null: no limit."
    )
    warmup_steps: int | None = Field(None, ge=0, description="No prefix before; null: a tenth of the run.")
    source: Literal["prefer_correct", "correct", "lowest_entropy"] = Field(
        "prefer_correct",
        description="Which attempt of a hard prompt is cut, always that of lowest mean token entropy: of the correct "
        "ones where there are any, or of all (as released). `correct`: a correct one of this visit or an earlier one; "
        "these are success prefixes.",
    )
    failures: bool = Field(
        False, description="Failure prefixes: prompts that mostly pass come back with the beginning of a wrong attempt."
    )
    smoothing: Smoothing = Field("embedding", description="Scores are averaged over prefixes that are similar in this.")
    tau: float = Field(0.1, gt=0, description="Temperature of the softmax over similarities.")
    choose: str | Callable[..., Any] | None = Field(
        None,
        description="`lowest_entropy`, `length`, path/file.py:name or a function of `attempts.Choosing`. Default: "
        "`length` for success and failure prefixes, else `lowest_entropy`.",
    )
    target_pass_rate: float = Field(
        0.5, gt=0, lt=1, description="Where `length` steers guided groups; at one half they say most."
    )
    memory_capacity: int = Field(128, ge=1, description="Prefixes remembered of a prompt.")
    memory_max_age: int | None = Field(50, ge=1, description="Steps that a prefix is remembered; null: no limit.")
    queue_capacity: int = Field(512, ge=1, description="Prompts that wait; the oldest leave.")
    queue_max_age: int | None = Field(8, ge=1, description="Steps that a prompt waits; null: no limit.")
    budget: Literal["same_total", "full"] = Field(
        "same_total", description="Room of a continuation: what the prefix leaves of a completion, or a whole one's."
    )
    max_depth: int | None = Field(1, ge=1, description="Prefixes of prefixes; null: without end, as released.")
    as_released: bool = Field(
        False,
        description="First in first out, into the last rows, the first of equal scores, several waiting prefixes of a "
        "prompt, and displaced prompts do not return.",
    )

    @property
    def by_success(self) -> bool:
        """Whether attempts are told apart by their success, so that those of every plain prompt are remembered."""
        return self.source == "correct" or self.failures

    @property
    def chooser(self) -> str | Callable[..., Any]:
        """``choose``, or its default."""
        return self.choose or ("length" if self.by_success else "lowest_entropy")

    @property
    def averaging(self) -> Smoothing:
        """``smoothing``, where scores decide at all."""
        return "none" if self.chooser == "length" else self.smoothing
