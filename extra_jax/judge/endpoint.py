"""One question to an OpenAI-compatible endpoint: time-outs, retries, and what a failure means."""

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from extra_jax.config import JudgeConfig
from extra_jax.errors import ExtraError, printable, redact
from extra_jax.judge.answer import Completion, Failure, read_answer
from extra_jax.judge.replies import Reply
from extra_jax.judge.score import expected_score, parse_score

try:
    import openai
except ImportError as error:
    raise ExtraError("asking a judge needs the package `openai`: pip install 'extra-jax[judge]'") from error

_LONGEST_PAUSE = 60.0  # seconds between two tries
_HELLO_TRIES, _HELLO_SECONDS = 5, 30.0
_LOGPROBS = {"logprobs": True, "top_logprobs": 20}
_SHORT = [{"role": "user", "content": "Say OK."}]
# Bytes of an answer: so many, and so many for each token that it may have (with the alternatives of each).
_BODY, _TOKEN, _TOKEN_WITH_ALTERNATIVES = 2**20, 2**10, 2**13
_SHORTEST_KEY = 6  # a shorter one ("none", "EMPTY") is a word of any text and no secret
_PARAMETERS = ("max_tokens", "temperature", "top_p", "seed")


Status = Literal["timeout", "transport", "too_long"]
_STATUS: dict[str, Status] = {"timeout": "timeout", "too_long": "too_long"}  # of the other kinds of failure: transport


class NoAnswer(Exception):
    """A question without an answer, after all retries.

    Attributes:
        status: ``timeout``, ``transport`` or ``too_long``.
        requests: How many were sent.
    """

    def __init__(self, status: Status, requests: int, reason: str):
        super().__init__(reason)
        self.status, self.requests = status, requests


class Endpoint:
    """The client of one endpoint; an async context manager.

    Args:
        config: Settings; ``endpoint`` and ``model`` are set.

    Attributes:
        requests: Sent so far, failed ones included.

    Raises:
        ExtraError: the environment variable for the API key is not set, or holds none.
    """

    def __init__(self, config: JudgeConfig):
        self.config, self.url = config, redact(str(config.endpoint))
        self._key = _read_key(config.api_key_env)
        # The retries are ours, so that they are counted and back off as configured.
        self._client = openai.AsyncOpenAI(
            base_url=config.endpoint,
            api_key=self._key,
            max_retries=0,
            timeout=config.timeout,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [self._bound]}),
        )
        self._pause = random.Random()
        self._works, self._has_logprobs, self._probing = False, False, asyncio.Lock()
        self.requests = 0

    async def hello(self) -> None:
        """Checks that somebody answers, so that a wrong URL ends the run at once and not in every worker.

        Raises:
            ExtraError: nobody does.
        """
        for tries in range(1, _HELLO_TRIES + 1):
            try:
                async with asyncio.timeout(min(self.config.timeout, _HELLO_SECONDS)):
                    await self._client.get("/models", cast_to=str)
                return
            except openai.APIStatusError:
                return  # not every server lists its models, nor to everybody; the first question will show the rest
            except (openai.APIConnectionError, TimeoutError) as error:
                if tries == _HELLO_TRIES:
                    raise ExtraError(
                        f"endpoint={self.url}: nobody answers ({self._cause(error)}). Start a server there, "
                        f"e.g. `vllm serve {self.config.model} --port 8000`, and give its URL with the /v1"
                    ) from error
                await asyncio.sleep(min(self.config.backoff, 1.0))

    async def ask(self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]) -> Reply:
        """Sends a question until it is answered.

        Raises:
            NoAnswer: it never was.
            ExtraError: the endpoint refuses such requests altogether (key, model, a field it does not know).
        """
        for tries in range(1, self.config.retries + 2):
            began = time.perf_counter()
            answer = await self._try(messages, sampling)
            latency = round(time.perf_counter() - began, 4)
            if isinstance(answer, Completion):
                self._works = True
                return self._reply(answer, latency, tries)
            failure = answer
            if failure.kind == "filtered":
                return Reply("", "content_filter", 0, 0, latency, tries)
            if failure.kind == "forbidden":
                raise self._refusal(failure)
            if failure.kind in ("too_long", "refused"):
                await self._check_settings(sampling)
                break
            if tries <= self.config.retries:
                await asyncio.sleep(self._backoff(tries, failure.pause))
        raise NoAnswer(_STATUS.get(failure.kind, "transport"), tries, failure.words)

    async def _try(self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]) -> Completion | Failure:
        """One request. Every word of the server that leaves here is safe to print and holds no key."""
        self.requests += 1
        headers: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(self.config.timeout):
                # Not `chat.completions.create`: walking its typed request and response costs more than all the rest.
                body = self._body(messages, sampling)
                text, status = await self._client.post("/chat/completions", cast_to=str, body=body), 200
        except (openai.APITimeoutError, TimeoutError):
            return Failure("timeout", f"no answer in {self.config.timeout:g} s")
        except openai.APIStatusError as error:
            text, status, headers = error.response.text, error.status_code, error.response.headers
        except openai.OpenAIError as error:
            return Failure("transport", self._cause(error))
        answer = read_answer(status, self._without_key(text), headers)
        return replace(answer, words=printable(redact(answer.words))) if isinstance(answer, Failure) else answer

    def _body(self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request. One that is null in ``extra_body`` is not sent, and one that has another name with
        some servers is sent under the name that is there."""
        extra = dict(self.config.extra_body)
        body = {"model": self.config.model, "messages": messages, **sampling}
        if self.config.scoring == "expectation":
            body |= _LOGPROBS
        if "max_completion_tokens" in extra:
            body.pop("max_tokens")
        if isinstance(extra.get("random_seed"), int):  # it must differ between the samples of a question
            extra["random_seed"] += body.pop("seed")
        return {key: value for key, value in (body | extra).items() if value is not None}

    async def _check_settings(self, sampling: Mapping[str, Any]) -> None:
        """Finds out whether a refused question or the settings are to blame, by a question that fits everywhere.

        Raises:
            ExtraError: that one is refused too.
        """
        async with self._probing:
            if not self._works:
                answer = await self._try(_SHORT, sampling)
                if isinstance(answer, Failure) and answer.kind in ("too_long", "refused", "forbidden"):
                    raise self._refusal(answer)
                self._works = isinstance(answer, Completion)

    def _reply(self, completion: Completion, latency: float, requests: int) -> Reply:
        choice, usage = completion.choices[0], completion.usage
        text, expected = choice.message.content, None
        parsed = parse_score(text, choice.finish_reason == "length") if self.config.scoring == "expectation" else None
        if parsed is not None:
            tokens = completion.tokens()
            if not tokens and not self._has_logprobs:
                raise ExtraError(
                    f"scoring=expectation: the endpoint {self.url} returns no log-probabilities; allow them there, or "
                    "use scoring=text"
                )
            self._has_logprobs = True
            alternatives = [[(other.token, other.logprob) for other in token.top_logprobs] for token in tokens]
            expected = expected_score(text, parsed, [token.token for token in tokens], alternatives)
        return Reply(
            text, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens, latency, requests, expected
        )

    def _backoff(self, tries: int, wanted: float | None) -> float:
        """What the server asks for, else full jitter, so that requests that failed together do not come back so."""
        pause = self._pause.uniform(0.5, 1.0) * self.config.backoff * 2 ** (tries - 1) if wanted is None else wanted
        return min(pause, _LONGEST_PAUSE)

    def _refusal(self, failure: Failure) -> ExtraError:
        return ExtraError(
            f"the endpoint {self.url} refuses requests for model={self.config.model} with status {failure.status}: "
            f"{failure.words}{self._remedy(failure)}"
        )

    def _remedy(self, failure: Failure) -> str:
        """What to do about a refusal of everything."""
        config = self.config
        if failure.kind == "too_long":
            return f"\nEven a short question does not fit: max_tokens={config.max_tokens} leaves no room; lower it"
        if failure.status in (404, 405):
            base = self.url.rstrip("/").removesuffix("/chat/completions")
            base += "" if re.search(r"/v\d", base) else "/v1"
            return "" if base == self.url.rstrip("/") else f"\nGive endpoint={base}"
        if "logprobs" in failure.words:
            return "\nThis model gives no log-probabilities: use scoring=text"
        if failure.status in (401, 403):
            where = "its key with api_key_env=NAME_OF_A_VARIABLE" if config.api_key_env is None else "another key there"
            return f"\nGive {where}"
        if "max_completion_tokens" in failure.words and "max_completion_tokens" not in config.extra_body:
            return f"\nGive extra_body='{{max_completion_tokens: {config.max_tokens}}}', which replaces max_tokens"
        for name in _PARAMETERS:
            if re.search(rf"\b{name}\b", failure.words):
                also = ", or {random_seed: 0} instead" if name == "seed" else ""
                return f"\nChange {name}, or leave it out: extra_body='{{{name}: null}}'{also}"
        return ""

    def _cause(self, error: BaseException) -> str:
        return printable(redact(self._without_key(f"{type(error).__name__}: {error.__cause__ or error}")))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= _SHORTEST_KEY else text

    async def _bound(self, response: Any) -> None:
        """Reads no more of an answer than one with so many tokens can be long; a hook of the HTTP client."""
        wanted = (self.config.max_tokens, *map(self.config.extra_body.get, ("max_tokens", "max_completion_tokens")))
        each = _TOKEN_WITH_ALTERNATIVES if self.config.scoring == "expectation" else _TOKEN
        limit = _BODY + each * max(number for number in wanted if isinstance(number, int))
        read = response.aiter_bytes

        async def bounded(chunk_size: int | None = None) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in read(chunk_size):
                size += len(chunk)
                if size > limit:
                    raise openai.OpenAIError(f"the answer is longer than {limit:,} bytes, which max_tokens cannot make")
                yield chunk

        response.aiter_bytes = bounded

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._client.close()


def _read_key(variable: str | None) -> str:
    """The API key in an environment variable. No message has it, nor the name of a variable that may be a key."""
    if variable is None:
        return "none"
    shown = variable if variable.isupper() else "..."
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ExtraError(f"api_key_env={shown}: this environment variable is not set")
    if not re.fullmatch(r"[!-~]+", key):
        raise ExtraError(f"api_key_env={shown}: what this environment variable holds is no key: it has blanks inside")
    return key
