"""What exploration remembers between steps, and how it is saved and restored exactly.

Everything is keyed by the uid of the root problem. Every process holds the same state: each gathers what the others saw
and computes the same update, so nothing is sent back and any process can save it. Memory per problem, at most:

- history: ``capacity x 4 E`` bytes; 16 vectors of 384 numbers are 25 kB, 0.42 GB for 17,000 problems (1,024 numbers
  of ``hashed_ngram``: 1.1 GB). Arm L1 adds ``capacity x 8 x 511`` bytes for bigrams.
- prefixes: ``memory_capacity x 4 E`` bytes and the tokens of the attempts they were cut from, 0.2 MB + 0.1 MB at 128
  prefixes and 4,096 tokens, for prompts that were hard within ``memory_max_age`` steps only: of 512 prompts a step, a
  third of them hard, 50 steps leave 8,500 attempts with 15 prefixes each, 0.3 GB. Without an age limit (release) it
  is up to 5 GB for 17,000 problems that stay hard.
- the queue: ``queue_capacity`` prefixes, 4 MB.
"""

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from extra_jax.errors import ExtraError
from extra_jax.explore.bonus import Scales
from extra_jax.explore.prefix import Prefix

_VERSION = 2
_READS = (1, 2)  # of version 1, prompts have no novelty yet
POSITION_BINS = 20
_GUIDED_KEYS = 1024  # prefixes as prompts of their own (release): those visited last are remembered


@dataclass(frozen=True, eq=False)
class Guided:
    """A prefix on its way back to the model, with everything that must travel with it.

    Attributes:
        uid: root problem.
        answer: ground truth of the root problem when the prefix was made.
        prefix: what is injected; its tokens are empty in a fresh draw (arm P6).
        smoothed: score by which it was chosen.
        born: step in which it was queued.
    """

    uid: str
    answer: str
    prefix: Prefix
    smoothed: float
    born: int


@dataclass(eq=False)
class PromptState:
    """Memory of one problem (or, in the release's way, of one guided prompt).

    Attributes:
        vectors: ``[m, E]`` f32, completions remembered, oldest first.
        codes: ``[m]`` sets of n-grams; empty where no metric needs them.
        correct: ``[m]`` bool.
        origins: ``[m, 2]`` int64, step and rollout id.
        counts: n-grams of correct completions so far (``ngram_count``).
        prefixes: oldest first.
        visits: plain visits so far.
        successes, trials: correct and all completions, decayed by visit.
        streak: visits without a solution in a row.
        variance: running variance of rewards (option A).
        hard: whether the last plain visit was hard.
        waiting: until the next plain visit, ``"eligible"`` since it was queued, ``"drawn"`` since it was injected.
        injected: times that a prefix of it was injected.
        novelty: mean real distance of correct completions at the last visit that had one.
    """

    vectors: np.ndarray | None = None
    codes: list[np.ndarray] = field(default_factory=list)
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    origins: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    counts: Counter[int] = field(default_factory=Counter)
    prefixes: list[Prefix] = field(default_factory=list)
    visits: int = 0
    successes: float = 0.0
    trials: float = 0.0
    streak: int = 0
    variance: float = 0.0
    hard: bool = False
    waiting: str = ""
    injected: int = 0
    novelty: float | None = None

    def remember(
        self, vectors: np.ndarray, codes: list[np.ndarray], correct: np.ndarray, origins: np.ndarray, capacity: int
    ) -> None:
        """Appends completions and forgets the oldest beyond ``capacity``."""
        before = np.zeros((0, vectors.shape[1]), np.float32) if self.vectors is None else self.vectors
        self.vectors = np.concatenate([before, vectors])[-capacity:]
        self.correct = np.concatenate([self.correct, correct])[-capacity:]
        self.origins = np.concatenate([self.origins, origins])[-capacity:]
        self.codes = (self.codes + codes)[-capacity:]


_NUMBERS = ("visits", "successes", "trials", "streak", "variance", "hard", "waiting", "injected", "novelty")


@dataclass(eq=False)
class ExplorationState:
    """Attributes:
    prompts: by uid.
    queue: prefixes that wait, oldest first.
    pending: uids of problems that were displaced and come before the loader's next ones.
    scales: of the real distances.
    used_scales: of those that an arm puts in their place.
    positions: ``[20]`` how often the real choice lay in each twentieth of its attempt.
    """

    prompts: dict[str, PromptState] = field(default_factory=dict)
    queue: list[Guided] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    scales: Scales = field(default_factory=Scales)
    used_scales: Scales = field(default_factory=Scales)
    positions: np.ndarray = field(default_factory=lambda: np.zeros(POSITION_BINS))

    def prompt(self, key: str) -> PromptState:
        """Memory of ``key``, made if missing. Keys of guided prompts are forgotten beyond the newest."""
        state = self.prompts.pop(key, None) or PromptState()
        self.prompts[key] = state  # newest last
        guided = [k for k in self.prompts if GUIDED_MARK in k] if GUIDED_MARK in key else []
        for old in guided[:-_GUIDED_KEYS]:
            del self.prompts[old]
        return state

    def nbytes(self) -> int:
        """Bytes of the arrays held, about; an attempt counts once, however many prefixes it gave."""
        total = 0
        for state in self.prompts.values():
            total += 0 if state.vectors is None else state.vectors.nbytes
            total += sum(codes.nbytes for codes in state.codes) + 16 * len(state.counts)
            total += sum(p.vector.nbytes for p in state.prefixes if p.vector is not None)
            total += sum({(p.step, p.rollout_id): p.tokens.nbytes for p in state.prefixes}.values())
        return total

    def dumps(self) -> bytes:
        """The state as the bytes of an npz file; equal states give equal bytes."""
        prompts = list(self.prompts.values())
        prefixes = [prefix for state in prompts for prefix in state.prefixes]
        attempts, tokens = _attempts(prefixes)
        head = {
            "version": _VERSION,
            "uids": list(self.prompts),
            "numbers": [{name: getattr(state, name) for name in _NUMBERS} for state in prompts],
            "queue": [_guided_to_json(entry) for entry in self.queue],
            "pending": self.pending,
            "scales": asdict(self.scales),
            "used_scales": asdict(self.used_scales),
        }
        vectors = [s.vectors for s in prompts if s.vectors is not None]
        codes = [c for s in prompts for c in s.codes]
        arrays = {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
            "positions": self.positions,
            "history": np.array([len(s.correct) for s in prompts], np.int64),
            "vectors": np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32),
            "correct": np.concatenate([s.correct for s in prompts]) if prompts else np.zeros(0, bool),
            "origins": np.concatenate([s.origins for s in prompts]) if prompts else np.zeros((0, 2), np.int64),
            "coded": np.array([len(s.codes) for s in prompts], np.int64),
            "code_sizes": np.array([len(c) for c in codes], np.int64),
            "codes": np.concatenate(codes) if codes else np.zeros(0, np.int64),
            "counted": np.array([len(s.counts) for s in prompts], np.int64),
            "count_keys": np.array([k for s in prompts for k in s.counts], np.int64),
            "count_values": np.array([v for s in prompts for v in s.counts.values()], np.int64),
            "prefixed": np.array([len(s.prefixes) for s in prompts], np.int64),
            "prefix_attempt": attempts,
            "prefix_cut": np.array([len(p.tokens) for p in prefixes], np.int64),
            "prefix_numbers": np.array([_prefix_numbers(p) for p in prefixes], np.float64).reshape(-1, 7),
            "prefix_vectors": _stack([p.vector for p in prefixes]),
            "attempt_sizes": np.array([len(t) for t in tokens], np.int64),
            "attempt_tokens": np.concatenate(tokens) if tokens else np.zeros(0, np.int32),
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> "ExplorationState":
        """The state that ``dumps`` wrote.

        Raises:
            ExtraError: the bytes are of another version.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        head = json.loads(arrays["head"].tobytes())
        if head["version"] not in _READS:
            raise ExtraError(
                f"the exploration state has version {head['version']}, this program reads "
                f"{_READS[0]} to {_READS[-1]}; continue the run "
                "with the version that wrote it, or start a new one"
            )
        codes = _split(arrays["codes"], arrays["code_sizes"])
        attempts = _split(arrays["attempt_tokens"], arrays["attempt_sizes"])
        vectors = arrays["prefix_vectors"]
        prefixes = [
            _prefix_from(attempts[attempt][:cut], numbers, vectors[row] if vectors.size else None)
            for row, (attempt, cut, numbers) in enumerate(
                zip(arrays["prefix_attempt"], arrays["prefix_cut"], arrays["prefix_numbers"], strict=True)
            )
        ]
        columns = zip(
            head["uids"],
            head["numbers"],
            _split(arrays["vectors"], arrays["history"]),
            _split(arrays["correct"], arrays["history"]),
            _split(arrays["origins"], arrays["history"]),
            _split(codes, arrays["coded"]),
            _split(arrays["count_keys"], arrays["counted"]),
            _split(arrays["count_values"], arrays["counted"]),
            _split(prefixes, arrays["prefixed"]),
            strict=True,
        )
        prompts = {
            uid: PromptState(
                vectors=remembered if len(remembered) else None,
                codes=list(coded),
                correct=correct,
                origins=origins,
                counts=Counter(dict(zip(keys.tolist(), values.tolist(), strict=True))),
                prefixes=list(kept),
                **numbers,
            )
            for uid, numbers, remembered, correct, origins, coded, keys, values, kept in columns
        }
        return cls(
            prompts=prompts,
            queue=[_guided_from_json(entry) for entry in head["queue"]],
            pending=head["pending"],
            scales=Scales(**head["scales"]),
            used_scales=Scales(**head["used_scales"]),
            positions=arrays["positions"],
        )


GUIDED_MARK = "\x00"
"""Separates a uid from the hash of a prefix where a guided prompt has a memory of its own; no uid holds it."""


def _attempts(prefixes: list[Prefix]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Index of the attempt that each prefix was cut from, and the tokens of each as far as any prefix goes."""
    index: dict[tuple[int, int], int] = {}
    tokens: list[np.ndarray] = []
    for prefix in prefixes:
        key = (prefix.step, prefix.rollout_id)
        place = index.setdefault(key, len(tokens))
        if place == len(tokens):
            tokens.append(prefix.tokens)
        elif len(prefix.tokens) > len(tokens[place]):
            tokens[place] = prefix.tokens
    return np.array([index[p.step, p.rollout_id] for p in prefixes], np.int64), tokens


def _prefix_numbers(p: Prefix) -> tuple[float, ...]:
    return (p.score, p.step, p.rollout_id, p.depth, p.fraction, p.correct, p.leak)


def _prefix_from(tokens: np.ndarray, numbers: np.ndarray, vector: np.ndarray | None) -> Prefix:
    score, step, rollout_id, depth, fraction, correct, leak = numbers.tolist()
    return Prefix(tokens, score, vector, int(step), int(rollout_id), int(depth), fraction, bool(correct), bool(leak))


def _guided_to_json(entry: Guided) -> dict[str, Any]:
    return {
        "uid": entry.uid,
        "answer": entry.answer,
        "smoothed": entry.smoothed,
        "born": entry.born,
        "tokens": entry.prefix.tokens.tolist(),
        "prefix": _prefix_numbers(entry.prefix),
    }


def _guided_from_json(entry: dict[str, Any]) -> Guided:
    prefix = _prefix_from(np.array(entry["tokens"], np.int32), np.array(entry["prefix"], np.float64), None)
    return Guided(entry["uid"], entry["answer"], prefix, entry["smoothed"], entry["born"])


def without_vector(prefix: Prefix) -> Prefix:
    """What a queue keeps of a prefix."""
    return replace(prefix, vector=None)


def _stack(vectors: list[np.ndarray | None]) -> np.ndarray:
    known = [vector for vector in vectors if vector is not None]
    return np.stack(known) if known else np.zeros((0, 0), np.float32)


def _split(values: Any, sizes: np.ndarray) -> list[Any]:
    """Consecutive parts of the given sizes."""
    ends = np.cumsum(sizes).tolist()
    return [values[end - size : end] for size, end in zip(sizes.tolist(), ends, strict=True)]
