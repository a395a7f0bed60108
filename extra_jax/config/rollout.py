"""How completions are drawn and what they are worth."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from extra_jax.config.section import MAX_SECONDS, MAX_STEPS, MAX_TOKENS, DType, Rows, Section, Temperature, Tokens


class RolloutConfig(Section):
    temperature: Temperature = Field(1.0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the likeliest tokens of this total probability; 1 is off.")
    top_k: int = Field(0, ge=0, le=MAX_TOKENS, description="Keep this many of the likeliest tokens; 0 is off.")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="Keep tokens of at least this share of the likeliest one's probability; 0 is off."
    )
    max_prompt_length: Tokens = Field(512, description="Tokens; a longer prompt is refused, never truncated.")
    max_completion_length: Tokens = Field(1024, description="Tokens, the stop token included.")
    dtype: DType = Field("bfloat16", description="Weights and cache of the sampler.")
    stop_strings: tuple[str, ...] = Field((), description="A completion ends with the token that completes one.")
    slots: Rows | None = Field(
        None, description="Completions that decode side by side, all devices together; default: as memory allows."
    )
    chunk: Tokens | None = Field(
        None, description="Tokens between two looks of the scheduler; default: fewer for shorter completions."
    )
    noise: Literal["fresh", "problem"] = Field(
        "fresh", description="`problem`: a problem is sampled with the same random numbers at its next visits."
    )
    noise_epochs: int = Field(
        4, ge=1, le=MAX_STEPS, description="Visits until a problem gets other ones; a group all wrong or correct: now."
    )
    reuse: Literal["off", "verified"] = Field(
        "off",
        description="`verified`: one pass checks how far the completion of the last visit would be drawn again, and "
        "decoding goes on from there. The same tokens, faster (docs/methods/reuse.md); needs noise=problem.",
    )

    @model_validator(mode="after")
    def _the_same_noise_returns(self) -> Self:
        if self.reuse == "verified" and self.noise == "fresh":
            raise ValueError(
                "reuse=verified keeps what would be drawn again, and with noise=fresh nothing would; set "
                "rollout.noise=problem, too, or leave reuse=off"
            )
        return self


class RewardFunction(Section):
    """One entry of ``reward.functions``."""

    function: str = Field(description="A name, `path/file.py:name` or `module:name`.")
    weight: float = Field(1.0, ge=-1e6, le=1e6, description="Factor in the reward; 0: only recorded.")
    args: dict[str, Any] = Field(default_factory=dict, description="Further keywords; graders take `values`, too.")
    in_process: bool = Field(False, description="Call it in the trainer's process, without limits.")
    timeout: float | None = Field(
        None, gt=0, le=MAX_SECONDS, description="Seconds of one call with all completions; default 60."
    )


class CorrectConfig(Section):
    """What ``reward.correct`` says."""

    function: str = Field(description="One of `reward.functions`, by its name.")
    threshold: float | None = Field(
        None, ge=-1e9, le=1e9, description="Correct from this value on; for functions that are no graders."
    )


_GONE = {
    "grader": "grader: X is now functions: [X] (dapo is dapo_strict_box)",
    "values": "values: {wrong: -1} is now functions: [{function: auto, args: {values: {wrong: -1}}}]",
    "exclude": "exclude: [X] is now functions: [{function: auto, args: {values: {X: null}}}]",
    "soft_punish_cache": "soft_punish_cache: N is now functions: [auto, {function: overlong, args: {cache: N}}]",
}


class RewardConfig(Section):
    functions: tuple[RewardFunction, ...] = Field(
        (RewardFunction(function="auto"),),
        min_length=1,
        description="Names, `path/file.py:name`, or {function, weight, args, in_process, timeout}; their weighted sum "
        "is the reward. `auto` is the grader of a generated task, and `math` for everything else "
        "(docs/howto/own-reward.md).",
    )
    correct: CorrectConfig | None = Field(
        None,
        description="Which of them says what is correct for pass@k, exploration and dynamic sampling: a grader's name, "
        "or {function, threshold}. Default: the first grader.",
    )
    source: Literal["verifier", "judge"] = Field(
        "verifier",
        description="`judge`: train on the scores stored in exprl.store. `reward: judge` alone says the same.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, raw: Any) -> Any:
        if raw == "judge":
            return {"source": "judge"}
        if not isinstance(raw, dict):
            return raw
        for key, now in _GONE.items():
            if key in raw:
                raise ValueError(now)
        short = dict(raw)
        if "functions" in raw:
            listed = raw["functions"] if isinstance(raw["functions"], list | tuple) else [raw["functions"]]
            short["functions"] = [{"function": entry} if isinstance(entry, str) else entry for entry in listed]
        if isinstance(raw.get("correct"), str):
            short["correct"] = {"function": raw["correct"]}
        return short
