"""What prefix regeneration remembers, and how it is saved and restored exactly.

Memory per problem: ``memory_capacity`` vectors and the tokens of the attempts that its prefixes were cut from, 0.2 MB +
0.1 MB at 128 prefixes and 4,096 tokens, for prompts that offered prefixes within ``memory_max_age`` steps only.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from extra_jax.explore.attempts import Prefix
from extra_jax.explore.packing import pack_texts, split, unpack_texts

POSITION_BINS = 20
GUIDED_MARK = "\x00"
"""Separates a uid from the tokens of a prefix where a guided prompt has a memory of its own; no uid holds it."""
_GUIDED_KEYS = 1024  # prefixes as prompts of their own (as released): those visited last are remembered

Kind = Literal["hard", "easy"]


@dataclass(frozen=True, eq=False)
class Guided:
    """A prefix on its way back to the model, with everything that must travel with it."""

    uid: str  # root problem
    answer: str  # ground truth of the root problem when the prefix was made
    prefix: Prefix  # what is injected; its tokens may be empty: a fresh draw
    score: float  # by which it was chosen
    born: int  # step in which it was queued
    kind: Kind = "hard"  # whether it helps a prompt that fails, or tests one that passes


@dataclass(frozen=True)
class Offer:
    """The prefixes that one prompt of a step offers; none where no attempt qualified or no cut was found."""

    index: int  # of the prompt in the step
    prefixes: list[Prefix]  # shortest first


@dataclass(eq=False)
class PromptRecord:
    """Memory of one problem (as released also of one guided prompt)."""

    prefixes: list[Prefix] = field(default_factory=list)  # oldest first
    visits: int = 0  # plain visits so far
    hard: bool = False  # whether the last plain visit was hard
    waiting: str = ""  # until the next plain visit, `"eligible"` since it was queued, `"drawn"` since it was injected
    injected: int = 0  # times that a prefix of it was injected


_NUMBERS = ("visits", "hard", "waiting", "injected")
_OF_PREFIX = ("score", "step", "rollout_id", "depth", "fraction", "correct", "leak")


@dataclass(eq=False)
class PrefixState:
    """Attributes:
    records: by uid, or by uid and prefix.
    queue: prefixes that wait, oldest first.
    pending: uids of displaced problems, which come before the next ones.
    positions: ``[20]`` how often the lowest score lay in each twentieth of its attempt.
    levels: of each kind, the fraction of an attempt that the length controller asks for.
    """

    records: dict[str, PromptRecord] = field(default_factory=dict)
    queue: list[Guided] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    positions: np.ndarray = field(default_factory=lambda: np.zeros(POSITION_BINS))
    levels: dict[str, float] = field(default_factory=lambda: {"hard": 0.5, "easy": 0.5})

    def record(self, key: str) -> PromptRecord:
        """Memory of ``key``, made if missing. Keys of guided prompts are forgotten beyond the newest."""
        record = self.records.pop(key, None) or PromptRecord()
        self.records[key] = record  # newest last
        guided = [k for k in self.records if GUIDED_MARK in k] if GUIDED_MARK in key else []
        for old in guided[:-_GUIDED_KEYS]:
            del self.records[old]
        return record

    def save(self) -> dict[str, Any]:
        """As a few arrays, however many prefixes there are; the tokens of an attempt once."""
        records = list(self.records.values())
        remembered = [prefix for record in records for prefix in record.prefixes]
        prefixes = [*remembered, *(entry.prefix for entry in self.queue)]
        attempts, tokens = _attempts(prefixes)
        vectors = [prefix.vector for prefix in remembered if prefix.vector is not None]
        head = {
            "uids": list(self.records),
            "records": [{name: getattr(record, name) for name in _NUMBERS} for record in records],
            "prefixes": [len(record.prefixes) for record in records],
            "queue": [{name: value for name, value in vars(e).items() if name != "prefix"} for e in self.queue],
            "pending": self.pending,
            "levels": self.levels,
        }
        return {
            "head": pack_texts([json.dumps(head)]),
            "positions": self.positions.copy(),
            "attempts": attempts,
            "cuts": np.array([len(p.tokens) for p in prefixes], np.int64),
            "numbers": np.array([[getattr(p, name) for name in _OF_PREFIX] for p in prefixes]).reshape(-1, 7),
            "vectors": np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
            "sizes": np.array([len(t) for t in tokens], np.int64),
            "tokens": np.concatenate(tokens) if tokens else np.zeros(0, np.int32),
        }

    @classmethod
    def load(cls, tree: dict[str, Any]) -> "PrefixState":
        """What ``save`` gave."""
        head = json.loads(unpack_texts(tree["head"])[0])
        attempts = split(np.asarray(tree["tokens"], np.int32), tree["sizes"])
        vectors: list[np.ndarray | None] = list(np.asarray(tree["vectors"]))
        columns = zip(tree["attempts"], tree["cuts"], np.asarray(tree["numbers"]).tolist(), strict=True)
        prefixes = [
            _prefix(attempts[attempt][:cut], vector, *numbers)
            for (attempt, cut, numbers), vector in zip_longest(columns, vectors)
        ]
        *remembered, queue = split(prefixes, [*head["prefixes"], len(head["queue"])])
        rows = zip(head["uids"], head["records"], remembered, strict=True)
        return cls(
            records={uid: PromptRecord(prefixes=own, **numbers) for uid, numbers, own in rows},
            queue=[Guided(prefix=prefix, **entry) for entry, prefix in zip(head["queue"], queue, strict=True)],
            pending=head["pending"],
            positions=np.array(tree["positions"], np.float64),
            levels=head["levels"],
        )


def _attempts(prefixes: Iterable[Prefix]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Index of the attempt that each prefix was cut from, and the tokens of each as far as any prefix goes."""
    index: dict[tuple[int, int], int] = {}
    tokens: list[np.ndarray] = []
    places = []
    for prefix in prefixes:
        place = index.setdefault((prefix.step, prefix.rollout_id), len(tokens))
        places.append(place)
        if place == len(tokens):
            tokens.append(prefix.tokens)
        elif len(prefix.tokens) > len(tokens[place]):
            tokens[place] = prefix.tokens
    return np.array(places, np.int64), tokens


def _prefix(
    tokens: np.ndarray, vector: np.ndarray | None, score: float, step: float, rollout_id: float, depth: float,
    fraction: float, correct: float, leak: float,
) -> Prefix:  # fmt: skip
    return Prefix(tokens, score, vector, int(step), int(rollout_id), int(depth), fraction, bool(correct), bool(leak))
