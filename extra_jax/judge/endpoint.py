"""One question to an OpenAI-compatible endpoint: time-outs, retries, and what a failure means."""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from extra_jax.config import JudgeConfig
from extra_jax.errors import ExtraError
from extra_jax.judge.replies import Reply
from extra_jax.judge.score import expected_score, parse_score

try:
    import openai
except ImportError as error:
    raise ExtraError("asking a judge needs the package `openai`: pip install 'extra-jax[judge]'") from error

_LONGEST_PAUSE = 60.0  # seconds between two tries
_HELLO_TRIES = 5
# vLLM: "maximum context length", SGLang: "longer than the model's context length", others: the code of OpenAI.
_TOO_LONG = re.compile(r"context.{0,10}length|context_length_exceeded|maximum.{0,20}(context|tokens)|too long", re.I)
_LOGPROBS = {"logprobs": True, "top_logprobs": 20}


class NoAnswer(Exception):
    """A question without an answer, after all retries.

    Attributes:
        status: ``timeout``, ``transport`` or ``too_long``.
        requests: How many were sent.
    """

    def __init__(self, status: Literal["timeout", "transport", "too_long"], requests: int, reason: str):
        super().__init__(reason)
        self.status, self.requests = status, requests


class Endpoint:
    """The client of one endpoint; an async context manager.

    Args:
        config: Settings; ``endpoint`` and ``model`` are set.

    Attributes:
        requests: Sent so far, failed ones included.

    Raises:
        ExtraError: the environment variable for the API key is not set.
    """

    def __init__(self, config: JudgeConfig):
        self.config = config
        key = "none"
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env, "")
            if not key:
                raise ExtraError(f"api_key_env={config.api_key_env}: this environment variable is not set")
        # The retries are ours, so that they are counted and back off as configured.
        self._client = openai.AsyncOpenAI(base_url=config.endpoint, api_key=key, max_retries=0, timeout=config.timeout)
        self._pause = random.Random()
        self.requests = 0

    async def hello(self) -> None:
        """Checks that the endpoint answers, so that a wrong URL ends the run at once and not in every worker.

        Raises:
            ExtraError: the endpoint does not answer, or it refuses the key.
        """
        for tries in range(1, _HELLO_TRIES + 1):
            try:
                await self._client.models.list()
                return
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise self._refusal(error) from error
            except openai.APIStatusError:
                return  # not every server lists its models; the first question will show whether it has this one
            except openai.APIConnectionError as error:
                if tries == _HELLO_TRIES:
                    raise ExtraError(
                        f"endpoint={self.config.endpoint}: nobody answers ({_cause(error)}). Start a server there, "
                        f"e.g. `vllm serve {self.config.model} --port 8000`, and give its URL with the /v1"
                    ) from error
                await asyncio.sleep(min(self.config.backoff, 1.0))

    async def ask(self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]) -> Reply:
        """Sends a question until it is answered.

        Raises:
            NoAnswer: it never was.
            ExtraError: the endpoint refuses such requests altogether (key, model, a field it does not know).
        """
        status: Literal["timeout", "transport"]
        failure: Exception
        for tries in range(1, self.config.retries + 2):
            began = time.perf_counter()
            pause = None
            try:
                body = await self._send(messages, sampling)
                return self._reply(body, time.perf_counter() - began, tries)
            except openai.APITimeoutError as error:
                status, failure = "timeout", error
            except openai.APIConnectionError as error:
                status, failure = "transport", error
            except openai.APIStatusError as error:
                if error.status_code == 400 and _TOO_LONG.search(error.message):
                    raise NoAnswer("too_long", tries, error.message) from error
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    raise self._refusal(error) from error
                status, failure, pause = "transport", error, _retry_after(error)
            except (json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
                status, failure = "transport", error  # an answer, but no chat completion: a proxy's page
            if tries <= self.config.retries:
                await asyncio.sleep(self._backoff(tries) if pause is None else pause)
        raise NoAnswer(status, tries, _cause(failure)) from failure

    async def _send(self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]) -> dict[str, Any]:
        wanted = _LOGPROBS if self.config.scoring == "expectation" else {}
        self.requests += 1
        body = {"model": self.config.model, "messages": messages, **sampling, **wanted, **self.config.extra_body}
        # Not `chat.completions.create`: walking its typed request and response costs more than all the rest here.
        return cast(dict[str, Any], await self._client.post("/chat/completions", cast_to=object, body=body))

    def _reply(self, body: Mapping[str, Any], latency: float, requests: int) -> Reply:
        choice, usage = body["choices"][0], body.get("usage") or {}
        text = choice["message"]["content"] or ""
        return Reply(
            text,
            choice["finish_reason"] or "",
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", 0),
            round(latency, 4),
            requests,
            self._expected(text, choice) if self.config.scoring == "expectation" else None,
        )

    def _expected(self, text: str, choice: Mapping[str, Any]) -> float | None:
        content = (choice.get("logprobs") or {}).get("content")
        if content is None:
            raise ExtraError(
                f"scoring=expectation: the endpoint {self.config.endpoint} returns no log-probabilities; allow them "
                "there, or use scoring=text"
            )
        parsed = parse_score(text)
        if parsed is None:
            return None
        alternatives = [[(other["token"], other["logprob"]) for other in entry["top_logprobs"]] for entry in content]
        return expected_score(parsed.position, [entry["token"] for entry in content], alternatives)

    def _backoff(self, tries: int) -> float:
        """Full jitter, so that requests that failed together do not come back together."""
        return self._pause.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, self.config.backoff * 2 ** (tries - 1))

    def _refusal(self, error: openai.APIStatusError) -> ExtraError:
        return ExtraError(
            f"the endpoint {self.config.endpoint} refuses requests for model={self.config.model} with status "
            f"{error.status_code}: {error.message}"
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._client.close()


def _retry_after(error: openai.APIStatusError) -> float | None:
    """The pause that the endpoint asks for, in seconds."""
    try:
        return min(max(float(error.response.headers["retry-after"]), 0.0), _LONGEST_PAUSE)
    except (KeyError, ValueError):  # absent, or a date
        return None


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error.__cause__ or error}"
