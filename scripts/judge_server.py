"""A judge for the chain task behind the OpenAI chat-completions protocol: no model, no weights, standard library HTTP.

It reads problem, reference and trace out of the question (the rubrics of ``extra_jax/judge/rubrics``) and grades by a
program: how many steps of the reference the trace establishes. The demo and the fault tests use it over real HTTP; the
switches make it as unreliable as a real endpoint can be.

    python scripts/judge_server.py --port 8000 --noise 0.1
    extra-jax judge runs/store endpoint=http://localhost:8000/v1 model=chain-judge
"""

import argparse
import asyncio
import hashlib
import json
import math
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

MODEL = "chain-judge"
_SECTION = re.compile(r"^# (Problem|Reference solution|[^\n]*[Tt]race[^\n]*)\n", re.MULTILINE)
_MARKED = re.compile(r"^--- (?P<mark>[0-9a-f]{16})\n(?P<trace>.*)\n--- (?P=mark)$", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"(-?\d+)([-+*])(\d+)=(-?\d+)")


def count_established_steps(reference: list[str], text: str) -> int:
    """How many steps of the reference solution ``text`` establishes: the longest common subsequence of lines.

    A line establishes a step by stating it exactly, in the order of the reference; further lines never lower the count.
    """
    best = [0] * (len(reference) + 1)  # best[k]: longest match of the lines read so far within the first k steps
    for line in text.split("\n"):
        diagonal = 0
        for k, step in enumerate(reference, start=1):
            diagonal, best[k] = best[k], max(best[k - 1], diagonal + 1 if line == step else best[k])
    return best[-1]


@dataclass
class Settings:
    """Switches.

    Attributes:
        noise: Probability that a score is replaced by one drawn from 1..5; a function of the question and its seed.
        lenient: Whether a trace that establishes every step and then goes on, to another answer, still gets a 5.
        gullible: Share of questions that get a 5 because the trace asks for one.
        malformed: Share of replies without a score.
        errors: Share of requests answered by 429 or 500, half each.
        drops: Share of connections that are closed without an answer.
        truncated: Share of replies that end with ``length`` before the score.
        latency: Seconds before an answer.
        context: Characters of a question beyond which it is refused as too long; 0 is off.
        seed: Of everything random.
        log: File that gets a JSON line for each request.
    """

    noise: float = 0.0
    lenient: bool = False
    gullible: float = 0.0
    malformed: float = 0.0
    errors: float = 0.0
    drops: float = 0.0
    truncated: float = 0.0
    latency: float = 0.0
    context: int = 0
    seed: int = 0
    log: TextIO | None = None


@dataclass
class Judge:
    """Answers one request; counts what it answered."""

    settings: Settings
    fate: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.fate = random.Random(self.settings.seed)

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        """Status, body and one word on what happened."""
        s, chat = self.settings, request["messages"]
        question = "\n".join(message["content"] for message in chat)
        if s.context and len(question) > s.context:
            return 400, _error(f"This model's maximum context length is {s.context} characters."), "too_long"
        draw = self.fate.random()
        if draw < s.errors:
            status = 429 if self.fate.random() < 0.5 else 500
            return status, _error("overloaded" if status == 429 else "internal error"), f"error {status}"
        level = grade(chat[-1]["content"], s.lenient)
        identity = f"{s.seed}/{question}/{request.get('seed')}/{request.get('temperature')}"
        noise = random.Random(hashlib.sha256(identity.encode()).digest())
        if noise.random() < s.noise:
            level = noise.randint(1, 5)
        if "Note to the grader" in question and noise.random() < s.gullible:
            level = 5
        text, finish, outcome = f"Reasoning: counted the steps of the reference.\nScore: {level}", "stop", "ok"
        if self.fate.random() < s.malformed:
            text, outcome = (
                self.fate.choice(("I cannot say.", "Score: high", "Score: 11", "", "Score: 1-5")),
                "malformed",
            )
        elif self.fate.random() < s.truncated:
            text, finish, outcome = "Reasoning: let us look at the first step again, and", "length", "truncated"
        return 200, _completion(request, question, text, finish), outcome


def grade(user: str, lenient: bool = False) -> int:
    """1 to 5 for one question: which share of the reference the trace establishes; a 5 must also end like it.

    A segment alone (``One step of the trace``) is graded by whether its lines are steps of the reference. Without a
    reference only the arithmetic of the lines can be checked, not whether they follow the problem.
    """
    marked = _MARKED.search(user)
    parts = _SECTION.split(user if marked is None else user[: marked.start()])
    titles, bodies = parts[1::2], parts[2::2]
    sections = dict(zip(titles, bodies, strict=True))
    title = titles[-1]
    trace = sections[title] if marked is None else marked["trace"] + "\n"
    reference = sections.get("Reference solution")
    if reference is None:
        lines = [line for line in trace.splitlines() if line]
        sound = sum(_is_sound(line) for line in lines)
        return 1 + math.floor(4 * sound / len(lines)) if lines else 1
    steps = [line for line in reference.strip("\n").split("\n") if line]
    if title.startswith("One step"):
        lines = [line for line in trace.splitlines() if line]
        return 1 + math.floor(4 * sum(line in steps for line in lines) / len(lines)) if lines else 1
    level = 1 + math.floor(4 * count_established_steps(steps, trace.rstrip("\n")) / len(steps))
    written = [line for line in trace.splitlines() if re.match(r"-?\d", line)]  # steps or attempts at them, no remarks
    return level if lenient or written[-1:] == steps[-1:] else min(level, 4)


def request_key(messages: list[dict[str, str]], seed: int | None) -> str:
    """What the log calls a question."""
    return hashlib.sha256(json.dumps([messages, seed]).encode()).hexdigest()


def _is_sound(line: str) -> bool:
    step = _STEP.fullmatch(line)
    if step is None:
        return False
    a, b, c = int(step[1]), int(step[3]), int(step[4])
    return {"+": a + b, "-": a - b, "*": a * b}[step[2]] == c


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "code": None}}


def _completion(request: dict[str, Any], question: str, text: str, finish: str) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    if request.get("logprobs"):
        choice["logprobs"] = {"content": [_token(character) for character in text]}
    tokens = (len(question) // 4, len(text) // 4)
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": [choice],
        "usage": usage,
    }


def _token(character: str) -> dict[str, Any]:
    """A character as a token; a digit is sure at 0.7 and shares the rest with its neighbours."""
    top = [(character, 1.0)]
    if character in "12345":
        neighbours = [str(n) for n in (int(character) - 1, int(character) + 1) if 1 <= n <= 5]
        top = [(character, 0.7), *((n, 0.3 / len(neighbours)) for n in neighbours)]
    alternatives = [{"token": text, "logprob": math.log(p), "bytes": None} for text, p in top]
    return {**alternatives[0], "top_logprobs": alternatives}


async def serve(settings: Settings, port: int, host: str = "127.0.0.1") -> asyncio.Server:
    """Starts listening; port 0 takes a free one."""
    judge = Judge(settings)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Errors of this kind only say that the client has gone or that the server stops.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await _one_request(judge, reader, writer):
                continue
        writer.close()

    return await asyncio.start_server(connection, host, port, limit=2**20)


async def _one_request(judge: Judge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers one request; whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, path, _ = head.split("\r\n", 1)[0].split(" ")
    length = re.search(r"(?i)^content-length:\s*(\d+)", head, re.MULTILINE)
    content = await reader.readexactly(int(length[1])) if length else b""
    if (method, path) == ("GET", "/v1/models"):
        return await _send(writer, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
    if (method, path) != ("POST", "/v1/chat/completions"):
        return await _send(writer, 404, _error(f"{method} {path}: no such route"))
    request = json.loads(content)
    if request["model"] != MODEL:
        return await _send(writer, 404, _error(f"The model `{request['model']}` does not exist, only `{MODEL}`."))
    settings = judge.settings
    if settings.latency:
        await asyncio.sleep(settings.latency)
    dropped = judge.fate.random() < settings.drops
    status, body, outcome = (0, {}, "drop") if dropped else judge.answer(request)
    if settings.log is not None:
        key = request_key(request["messages"], request.get("seed"))
        settings.log.write(json.dumps({"time": time.time(), "key": key, "outcome": outcome}) + "\n")
        settings.log.flush()
    if dropped:
        writer.transport.abort()
        return False
    return await _send(writer, status, body)


async def _send(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> bool:
    content = json.dumps(body).encode()
    wait = "Retry-After: 0\r\n" if status == 429 else ""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{wait}\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one, which is printed")
    for name in ("noise", "gullible", "malformed", "errors", "drops", "truncated", "latency"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--lenient", action="store_true", help="a 5 also for traces that go on after the answer")
    parser.add_argument("--context", type=int, default=0, help="refuse longer questions (characters)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="append a JSON line for each request")
    args = vars(parser.parse_args())
    port, log = args.pop("port"), args.pop("log")

    async def run() -> None:
        settings = Settings(**args, log=log.open("a") if log else None)
        server = await serve(settings, port)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await server.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
