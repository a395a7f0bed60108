"""What an endpoint has sent back: a completion, or the server's own words on why there is none, and what they mean."""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

_LONGEST_WORDS = 400  # characters of a server's text that are shown and stored

# Every server has its own phrase for a question that does not fit (vLLM old and new, SGLang, llama.cpp, TGI, OpenAI,
# Mistral, Gemini, LM Studio, Anthropic, TensorRT-LLM); tests/judge/recorded.py holds them.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|context.{0,12}(?:length|size|window)|maximum (?:model|prompt|input|sequence) length|max_(?:model|seq)_len"
    r"|max_tokens must be at least 1, got -"
    r"|\b(?:prompt|input|request|sequence|messages?|tokens)\b.{0,40}too (?:long|large)|too many (?:input )?tokens"
    r"|(?:input|prompt|token count)\b.{0,60}exceeds? .{0,30}maximum|reduce the length|must have less than \d+ tokens"
    r"|`inputs`.{0,60}must be <=|tokens to keep from the initial prompt",
    re.IGNORECASE | re.DOTALL,
)
_FILTERED = re.compile(r"content[ _](?:filter|policy|management)|moderation|flagged|safety system", re.IGNORECASE)
_NO_MONEY = re.compile(r"insufficient_quota|exceeded your current quota|billing|credit balance|payment", re.IGNORECASE)

Kind = Literal["timeout", "transport", "too_long", "filtered", "refused", "forbidden"]


@dataclass(frozen=True)
class Failure:
    """A try without a completion.

    Attributes:
        kind: ``timeout`` and ``transport`` may pass; ``too_long`` and ``filtered`` are about the question, ``refused``
            is about the question or the settings, and ``forbidden`` about everything that would be asked.
        words: What the server says.
        status: Of HTTP; 0 where nobody answered.
        pause: Seconds that the server asks to wait.
    """

    kind: Kind
    words: str
    status: int = 0
    pause: float | None = None


def _whole(value: object) -> str:
    """Text without half surrogate pairs, which no file can hold; ``""`` for what is no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _joined(content: object) -> str:
    """The text of a message: a text, or a list of parts of which those of a thought do not count."""
    if isinstance(content, Mapping) and content.get("type", "text") in ("text", "output_text"):
        content = content.get("text")
        return _joined(content.get("value")) if isinstance(content, Mapping) else _whole(content)
    return "".join(map(_joined, content)) if isinstance(content, list) else _whole(content)


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**62 else 0


Text = Annotated[str, BeforeValidator(_whole)]
Count = Annotated[int, BeforeValidator(_count)]


class Alternative(BaseModel):
    """A token that was likely in its place, with its natural log-probability."""

    token: Text
    logprob: float


class Token(Alternative):
    """A token of the reply."""

    top_logprobs: Annotated[list[Alternative], BeforeValidator(lambda value: value or [])] = []


class _Logprobs(BaseModel):
    content: list[Token]


class _Message(BaseModel):
    content: Annotated[str, BeforeValidator(_joined)] = ""


class _Choice(BaseModel):
    message: _Message
    finish_reason: Text = ""
    logprobs: Any = None


class _Usage(BaseModel):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class Completion(BaseModel):
    """An answered question; other fields of the body are not read, and none that is missing costs a good reply."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage, BeforeValidator(lambda usage: usage if isinstance(usage, Mapping) else {})] = _Usage()

    def tokens(self) -> list[Token]:
        """The tokens of the reply with their log-probabilities, or nothing where there are none."""
        try:
            return _Logprobs.model_validate(self.choices[0].logprobs).content
        except ValidationError:
            return []


def read_answer(status: int, text: str, headers: Mapping[str, str]) -> Completion | Failure:
    """What the body of an answer is."""
    try:
        body = json.loads(text)
        error = body.get("error") if isinstance(body, Mapping) else None
        if status < 400 and not error:
            return Completion.model_validate(body)
        words = _said(body)[:4000] or _words(text)
    except (ValueError, RecursionError):  # no JSON, no completion, or nested without end
        words, error = _words(text), None
        if status < 400:
            return Failure("transport", f"no chat completion: {words}", status)
    code, name = (error.get("code"), error.get("type")) if isinstance(error, Mapping) else (None, None)
    if status < 400:  # an error that comes as a success has its own number, or none
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    pause = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*", headers.get("retry-after", ""), re.ASCII)  # or it is a date
    kind = _kind(status, f"{words} {code} {name}")
    return Failure(kind, words[:_LONGEST_WORDS], status, float(pause[1]) if pause else None)


def _kind(status: int, text: str) -> Kind:
    if status == 413 or (status in (400, 422, 500) and _TOO_LONG.search(text)):
        return "too_long"
    if status in (400, 403) and _FILTERED.search(text):
        return "filtered"
    if status in (401, 402, 403, 404, 405) or (status == 429 and _NO_MONEY.search(text)):
        return "forbidden"
    return "transport" if status >= 500 or status in (408, 409, 425, 429) else "refused"


def _said(body: object) -> str:
    """The message in an error's body: ``error``, ``detail`` or ``message``, as text, as object or as list of them."""
    if isinstance(body, str):
        return _whole(body)
    if isinstance(body, list):
        return "; ".join(filter(None, map(_said, body)))
    if not isinstance(body, Mapping):
        return ""
    if "msg" in body and isinstance(body.get("loc"), list):  # FastAPI: which field, and what is wrong with it
        return f"{'.'.join(map(str, body['loc']))}: {_said(body['msg'])}"
    return next((said for key in ("error", "message", "detail", "msg") if (said := _said(body.get(key)))), "")


def _words(text: str) -> str:
    """What can be shown of a body that is no JSON of an API."""
    start = text.strip()[:4000]
    if start.startswith("data:"):
        return f"a stream of events, though none was asked for: {start[:100]}"
    if start.startswith("<"):
        title = re.search(r"<title[^>]*>([^<]*)", start, re.IGNORECASE)
        page = title[1] if title else re.sub(r"<[^>]*>", " ", start)
        return f"a web page: {' '.join(html.unescape(page).split())[:200]}"
    return start[:_LONGEST_WORDS] or "an empty answer"
