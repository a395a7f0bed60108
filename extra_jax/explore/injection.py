"""Which prompts a step asks: plain ones from the loader, and guided ones that take a few of their slots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from extra_jax.config import PrefixConfig
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.errors import ExtraError
from extra_jax.explore.keyed import keyed_rng, keyed_uniform
from extra_jax.explore.state import ExplorationState, Guided
from extra_jax.rollout.types import Request, Rollouts


@dataclass(frozen=True)
class Slot:
    """One prompt of a step.

    Attributes:
        problem: what is asked.
        graded: whose ground truth the completions are graded with; the same problem, but for the replica of defect D1.
        guided: lineage of the prefix that is injected, or ``None``.
    """

    problem: Problem
    graded: Problem
    guided: Guided | None = None

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Tokens between prompt and completion."""
        return () if self.guided is None else tuple(self.guided.prefix.tokens.tolist())

    @property
    def ground_truth_matches(self) -> bool:
        """Whether a guided prompt is graded against its own problem."""
        entry = self.guided
        return entry is None or (self.graded.uid == entry.uid and self.graded.answer == entry.answer)


def next_slots(
    state: ExplorationState,
    problems: Mapping[str, Problem],
    next_batch: Callable[[], list[Problem]],
    config: PrefixConfig,
    *,
    size: int,
    guided: int,
    seed: int,
    step: int,
) -> list[Slot]:
    """The ``size`` slots of a step, all processes together; takes what it injects out of the queue.

    Problems that a guided prompt displaces come first in the next step (``requeue``); nothing is asked of the loader
    before they have been used up, so every problem of an epoch is seen.

    Args:
        state: of exploration; changed.
        problems: by uid.
        next_batch: further problems, in order.
        config: queue and slots.
        size: prompts of a step.
        guided: slots that may be given away.
        seed: of the run.
        step: of the run.

    Raises:
        ExtraError: a guided prompt would be graded against another ground truth than that of its root problem.
    """
    batch = [problems[uid] for uid in state.pending[:size]]
    state.pending = state.pending[size:]
    while len(batch) < size:
        more = next_batch()
        room = size - len(batch)
        batch += more[:room]
        state.pending += [problem.uid for problem in more[room:]]
    slots = [Slot(problem, problem) for problem in batch]
    drawn = draw(state, config, guided, seed, step)
    if config.slots == "last":
        rows = np.arange(size - len(drawn), size)
    else:
        rows = np.sort(keyed_rng("slots", seed, step).choice(size, len(drawn), replace=False))
    for row, entry in zip(rows.tolist(), drawn, strict=True):
        root, displaced = problems[entry.uid], batch[row]
        slots[row] = Slot(root, displaced if config.ground_truth == "displaced" else root, entry)
        if config.ground_truth == "carried" and not slots[row].ground_truth_matches:
            raise ExtraError(
                f"step {step}: problem {entry.uid!r} has the answer {root.answer!r}, its prefix was made for "
                f"{entry.answer!r}. The data set has changed; start a new run"
            )
    if config.requeue:
        state.pending = [batch[row].uid for row in rows] + state.pending
    return slots


def draw(state: ExplorationState, config: PrefixConfig, count: int, seed: int, step: int) -> list[Guided]:
    """Takes up to ``count`` entries out of the queue, those too old for it first of all.

    A random draw gives each entry a number of its own, so that it does not depend on the order of the queue.
    """
    state.queue = [entry for entry in state.queue if not expired(entry, config, step)]
    order = list(range(len(state.queue)))
    if config.queue_order == "random":
        keys = [keyed_uniform("draw", seed, step, e.uid, e.born, e.prefix.rollout_id) for e in state.queue]
        order.sort(key=keys.__getitem__)
    taken = sorted(order[:count])
    entries = [state.queue[index] for index in taken]
    state.queue = [entry for index, entry in enumerate(state.queue) if index not in set(taken)]
    for entry in entries:
        prompt = state.prompt(entry.uid)
        prompt.waiting = "drawn"
        prompt.injected += 1
    return entries


def expired(entry: Guided, config: PrefixConfig, step: int) -> bool:
    """Whether an entry has waited longer than ``queue_max_age``."""
    return config.queue_max_age is not None and step - entry.born > config.queue_max_age


def make_requests(
    slots: Sequence[Slot], prompts: Mapping[str, list[int]], group: int, first: int, config: PrefixConfig
) -> list[Request]:
    """One request a slot; ids count through the whole step, whatever the number of processes.

    With ``budget=same_total`` the prefix is the beginning of the completion, which has only the rest of its room; with
    ``full`` it is the end of the prompt.

    Args:
        slots: of this process.
        prompts: token ids by uid.
        group: completions a slot.
        first: index of the first slot in the whole step.
        config: budget.
    """
    requests = []
    for index, slot in enumerate(slots, start=first):
        ids, prefix = prompts[slot.problem.uid], slot.prefix_ids
        if not prefix:
            requests.append(Request(ids, group, index * group))
        elif config.budget == "full":
            requests.append(Request([*ids, *prefix], group, index * group))
        else:
            requests.append(Request(ids, group, index * group, prefix_ids=prefix))
    return requests


def responses(tokenizer: Tokenizer, rollouts: Rollouts, slots: Sequence[Slot]) -> list[str]:
    """``[R]`` texts to be graded: the injected prefix and the completion behind it, without special tokens."""
    prefixes = [list(slot.prefix_ids) for slot in slots]
    return [
        tokenizer.decode(prefixes[slot] + rollouts.completion_ids(row).tolist())
        for row, slot in enumerate(rollouts.prompt_index)
    ]
