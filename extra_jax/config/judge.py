"""The judge: which endpoint, what it is asked, and how patiently."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from extra_jax.config.section import MAX_SECONDS, Rows, Section, Temperature, Tokens
from extra_jax.errors import redact

_SECRET_KEY = re.compile(r"(?i)(?:api[-_]?key|authorization|passw(?:or)?d|secret|(?:^|access|auth|bearer)[-_]?token)$")


class JudgeConfig(Section):
    """Settings of the client; ``extra-jax judge DIR key=value ...`` takes the same ones."""

    endpoint: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server (vLLM, SGLang, ...), e.g. http://gpu:8000/v1."
    )
    model: str | None = Field(None, description="Name under which the endpoint serves the judge.")
    rubric: str = Field("outcome_strict_v1", description="Name of a rubric in the package, or FILE.toml.")
    condition: Literal["ref", "noref", "wrongref", "injected", "again"] = Field(
        "ref",
        description="What the judge sees: the reference; for calibration also none, that of another problem, a trace "
        "that asks for the highest score, or the same as under `ref` with another draw (temperature above 0).",
    )
    scoring: Literal["text", "expectation"] = Field(
        "text", description="`expectation`: mean of 1..5 under the judge's log-probabilities at the digit it wrote."
    )
    samples: Rows = Field(1, description="Replies to each question; the score is their mean.")
    temperature: Temperature = Field(0.0, description="Of the judge; with several samples it must be above 0.")
    max_tokens: Tokens = Field(2048, description="Of a reply.")
    concurrency: Rows = Field(64, description="Requests under way at once.")
    timeout: float = Field(300.0, gt=0, le=MAX_SECONDS, description="Seconds for one request.")
    retries: int = Field(
        5, ge=0, le=1000, description="Further tries after a time-out, a 429 or 5xx answer, a lost connection."
    )
    parse_retries: int = Field(2, ge=0, le=1000, description="Further replies drawn when one holds no valid score.")
    backoff: float = Field(
        1.0, ge=0, le=MAX_SECONDS, description="Seconds before the first retry; doubles each time, at most 60."
    )
    api_key_env: str | None = Field(None, description="Name of the environment variable that holds the API key.")
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Further fields of a request, e.g. {chat_template_kwargs: {enable_thinking: false}} for vLLM; null "
        "leaves one out ({seed: null}), max_completion_tokens and random_seed replace max_tokens and seed.",
    )
    cache: str | None = Field(
        None, description="Local folder of the judge's replies; default: `replies` in the folder that is judged."
    )

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, endpoint: str | None) -> str | None:
        try:
            url = urlsplit(endpoint or "http://none")
            is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_url = False
        if not is_url or re.search(r"[\x00-\x20\x7f-\xa0]", str(endpoint)):
            raise ValueError("an endpoint is a URL such as http://localhost:8000/v1")
        if url.username or url.password or (url.query and redact(url.query) != url.query):
            raise ValueError("an endpoint is stored and printed, so no secret belongs into it; use api_key_env")
        return endpoint

    @field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, name: str | None) -> str | None:
        if name is not None and (not re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII) or redact(name) != name):
            raise PydanticCustomError("secret", "this is the NAME of an environment variable that holds the key")
        return name

    @field_validator("extra_body")
    @classmethod
    def _has_no_secret(cls, body: dict[str, Any]) -> dict[str, Any]:
        if (place := _secret_place(body)) is not None:
            raise ValueError(f"{place} looks like a secret, which would be stored with the run; use api_key_env")
        return body

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} at temperature=0 would all be equal; set temperature, e.g. 0.7")
        if self.condition == "again" and self.temperature == 0:
            raise ValueError("condition=again at temperature=0 would repeat the same reply; set temperature, e.g. 0.7")
        return self


def _secret_place(value: object, place: str = "") -> str | None:
    """The key under which something in a tree looks like a secret."""
    if isinstance(value, Mapping):
        places = (_secret_place(inner, f"{place}.{key}" if place else str(key)) for key, inner in value.items())
        return next(filter(None, places), None)
    if isinstance(value, list):
        return next(filter(None, (_secret_place(inner, place) for inner in value)), None)
    return place if isinstance(value, str) and (_SECRET_KEY.search(place) or redact(value) != value) else None
