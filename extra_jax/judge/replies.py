"""What the judge has answered, by the content of the question: nothing that was answered is asked again."""

import fcntl
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from extra_jax.errors import ExtraError

_FILE, _LOCK = "replies.jsonl", "lock"
_KEY = re.compile(rb'\{"key": "([0-9a-f]{64})"')


@dataclass(frozen=True)
class Reply:
    """One answer of the endpoint.

    Attributes:
        finish_reason: ``stop``, ``length``, ...
        prompt_tokens: As the endpoint counts them.
        latency: Seconds from sending to the whole answer, of the request that succeeded.
        requests: How many requests it took, failed ones included.
        expected: Expected score under the judge's log-probabilities, where they were asked for and there is a score.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency: float
    requests: int = 1
    expected: float | None = None


_REPLY = TypeAdapter(Reply)


class ReplyCache:
    """An append-only file of replies, and where each stands in it.

    A reply is in the file before ``put`` returns, so a kill loses none; a line that a kill cut short is dropped at the
    next start. One process at a time: a second one would pay for the same questions.

    Raises:
        ExtraError: another process works in this folder.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ExtraError(
                f"{folder}: another judge works here and would pay for the same questions; wait for it, or stop it"
            ) from error
        path = folder / _FILE
        self._file = path.open("a+b", buffering=0)
        self._places: dict[bytes, int] = {}
        self._end = self._index(path)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Reply | None:
        """The reply to a question, or ``None``, also where what is kept cannot be read: it is then asked again."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        self._reader.seek(place)
        try:
            return _REPLY.validate_json(self._reader.readline(), strict=True)
        except ValidationError:
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply."""
        line = json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._places[bytes.fromhex(key)] = self._end
        self._end += len(line)

    def close(self) -> None:
        """Closes the file and lets others in."""
        self._file.close()
        self._reader.close()
        self._lock.close()

    def _index(self, path: Path) -> int:
        """Reads where each reply stands; returns the length of the file without a line that was cut."""
        self._reader = path.open("rb")
        end = 0
        for line in self._reader:
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                break
            if key := _KEY.match(line):
                self._places[bytes.fromhex(key[1].decode())] = end
            end += len(line)
        return end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def question_key(
    model: str, rubric_sha: str, sampling: Mapping[str, Any], messages: Sequence[Mapping[str, str]]
) -> str:
    """64 hex digits over everything that the reply depends on: template, judge, sampling, text."""
    content = json.dumps([model, rubric_sha, sampling, messages], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
