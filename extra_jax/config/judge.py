"""The judge: which endpoint, what it is asked, and how patiently."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from extra_jax.config.section import Section


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
    wrongref_seed: int = Field(0xC0DE, description="Which other problem's reference `wrongref` shows.")
    scoring: Literal["text", "expectation"] = Field(
        "text", description="`expectation`: mean of 1..5 under the judge's log-probabilities at the digit it wrote."
    )
    samples: int = Field(1, ge=1, description="Replies to each question; the score is their mean.")
    temperature: float = Field(0.0, ge=0.0, description="Of the judge; with several samples it must be above 0.")
    max_tokens: int = Field(2048, ge=1, description="Of a reply.")
    concurrency: int = Field(64, ge=1, description="Requests under way at once.")
    timeout: float = Field(300.0, gt=0, description="Seconds for one request.")
    retries: int = Field(5, ge=0, description="Further tries after a time-out, a 429 or 5xx answer, a lost connection.")
    parse_retries: int = Field(2, ge=0, description="Further replies drawn when one holds no valid score.")
    backoff: float = Field(1.0, ge=0, description="Seconds before the first retry; doubles each time, at most 60.")
    api_key_env: str | None = Field(None, description="Name of the environment variable that holds the API key.")
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Further fields of a request, e.g. {chat_template_kwargs: {enable_thinking: false}} for vLLM.",
    )
    cache: str | None = Field(
        None, description="Local folder of the judge's replies; default: `replies` in the folder that is judged."
    )

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError("an endpoint is a URL such as http://localhost:8000/v1")
        return endpoint

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} at temperature=0 would all be equal; set temperature, e.g. 0.7")
        if self.condition == "again" and self.temperature == 0:
            raise ValueError("condition=again at temperature=0 would repeat the same reply; set temperature, e.g. 0.7")
        return self
