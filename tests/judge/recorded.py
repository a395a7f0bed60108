"""What servers answer, as recorded or as their sources and issues have it, and the row that must come of it.

``docs/howto/judge.md`` has the same servers as a table.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LONG = "THE TRACE THAT IS TOO LONG"
"""A question that holds this gets the recorded answer, others a score of 4; or all, where ``every`` says so."""


@dataclass(frozen=True)
class Recorded:
    """An answer.

    Attributes:
        body: JSON, or the text itself.
        row: Status and score of the unit; ``None`` where the run must end with an error.
        words: What the person must read: in the error, in the row or in the tally.
        every: Whether each question gets it.
    """

    server: str
    case: str
    http: int
    body: Any
    row: tuple[str, float | None] | None = None
    words: str = ""
    every: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.server}: {self.case}"

    def text(self) -> str:
        return self.body if isinstance(self.body, str) else json.dumps(self.body)


def completion(content: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


GOOD = completion("Reasoning: sound.\nScore: 4")


def _load(group: str) -> list[Recorded]:
    answers = []
    for line in (Path(__file__).parent / "recorded_answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.pop("group") == group:
            outcome = tuple(row.pop("row")) if "row" in row else None
            answers.append(Recorded(**row, row=outcome, every=group != "too long"))
    return answers


ANSWERS = _load("answer")
UNREADABLE = _load("unreadable")
"""Bodies that are no completion: nothing of them is a reply, and the words reach the person."""
TOO_LONG = _load("too long")
"""A question that does not fit, in every server's words: the unit is ``too_long`` and the run goes on."""
REFUSED = _load("refused")
"""What would refuse every question ends the run at once, with the server's words and the remedy."""


@contextmanager
def played(answers: list[Recorded]) -> Iterator[str]:
    """Plays each answer at ``URL/<its place>/v1`` over HTTP; counts the requests in ``counts``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(404, "")

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            place = self.path.split("/")[1]
            if not place.isdigit() or not self.path.endswith("/v1/chat/completions"):
                return self.send(404, "")
            answer = answers[int(place)]
            if answer.every or LONG in json.dumps(question["messages"]):
                return self.send(answer.http, answer.text(), answer.headers)
            return self.send(200, json.dumps(GOOD))

        def send(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
            body = text.encode("utf-8", "surrogatepass")
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                **(headers or {}),
                "Content-Length": len(body),
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
