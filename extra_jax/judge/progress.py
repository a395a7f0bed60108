"""What a person sees while a judge works: how far, how long still, how the units ended, what it costs in tokens."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TextIO

from extra_jax.judge.join import OK, STATUSES
from extra_jax.judge.replies import Reply
from extra_jax.telemetry.progress import Display

_PLAIN_SECONDS = 10.0


@dataclass
class Tally:
    """How judging ended.

    Attributes:
        statuses: Units by status, all units of the store.
        words: What the server said last, for each status without a reply.
        asking: Units of this run whose trace tells the judge what to do.
        before: Of them, those that an earlier run of the verb had finished.
        requests: Sent in this run, failed ones included.
        cached: Replies that did not have to be asked for.
        prompt_tokens: Paid for in this run.
        completion_tokens: Paid for in this run.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)
    asking: int = 0
    before: int = 0
    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        ended = "  ".join(f"{status} {self.statuses[status]:,}" for status in STATUSES)
        asking = f"\n{self.asking:,} traces ask the judge for a score or bring control tokens" if self.asking else ""
        words = asking + "".join(f"\nthe last {status}: {said}" for status, said in self.words.items())
        return (
            f"judged {self.statuses.total():,} units: {ended}\n"
            f"{self.before:,} of them before; {self.requests:,} requests, {self.cached:,} replies from the cache, "
            f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens, {self.seconds:.1f} s"
            f"{words}"
        )


class JudgeProgress(Display):
    """How far the judge is: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None):
        super().__init__(not quiet, stream)
        self.tally = Tally()
        self._total = self._ended = self._failed = 0
        self._began = self._last = time.monotonic()
        self._bar = self.add("judging")

    def expect(self, total: int) -> None:
        """How many units the store has."""
        self._total = total
        self.update(self._bar, total=total)

    def before(self, status: str) -> None:
        """A unit that an earlier run has finished."""
        self.tally.statuses[status] += 1
        self.tally.before += 1

    def paid(self, reply: Reply) -> None:
        """A reply that came from the endpoint."""
        self.tally.prompt_tokens += reply.prompt_tokens
        self.tally.completion_tokens += reply.completion_tokens

    def ended(self, status: str, reply: str) -> None:
        """A unit that has just ended, with the judge's reply or what the server said instead."""
        self.tally.statuses[status] += 1
        if status not in (OK, "parse", "truncated"):
            self.tally.words[status] = reply
        self._ended += 1
        self._failed += status != OK
        now, done = time.monotonic(), self.tally.before + self._ended
        self.update(self._bar, completed=done, note=self._note(now))
        if not self.has_bars and now - self._last >= _PLAIN_SECONDS:
            self._last = now
            self.line(f"  judged {done:,}/{self._total:,}, {self._note(now)}")

    def _note(self, now: float) -> str:
        rate = self._ended / max(now - self._began, 1e-9)
        left = (self._total - self.tally.before - self._ended) / max(rate, 1e-9)
        tokens = f"{self.tally.prompt_tokens:,} + {self.tally.completion_tokens:,} tokens"
        return f"{rate:.1f}/s, {left:,.0f} s left, {self._failed:,} without a score, {tokens}"

    def __exit__(self, *error: object) -> None:
        self.tally.seconds = time.monotonic() - self._began
        super().__exit__(*error)
