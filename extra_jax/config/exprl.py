"""ExpRL: how traces are cut and judged, and what the scores are worth."""

from typing import Literal

from pydantic import Field

from extra_jax.config.section import MAX_SECONDS, MAX_STEPS, Section, Tokens


class SegmentConfig(Section):
    """How a trace is cut into the pieces that a process judge scores."""

    delimiter: str = Field(
        r"^#{2,6}\s", description="Regular expression (^ is a line start); a match opens a segment. ASCII only."
    )
    min_tokens: Tokens = Field(16, description="A shorter piece joins the next one, the last one its predecessor.")
    max_segments: Tokens = Field(24, description="More are merged evenly, neighbours with neighbours.")
    fallback: Literal["none", "blank_lines", "equal_tokens"] = Field(
        "none", description="What cuts a trace that the delimiter leaves whole."
    )


class ExprlConfig(Section):
    """Rollouts, scores and what is learned from them: ``rollout``, ``exprl``, and ``train`` with ``reward: judge``.

    Source: ``docs/methods/exprl.md``; section 4 says what ``faithful`` chooses between.
    """

    store: str | None = Field(
        None, description="Folder of rollouts and scores, local or gs://; default: run.dir/store."
    )
    scores: str | None = Field(
        None, description="Whose scores: a folder of STORE/scores. Default: those of `judge`, or the only ones there."
    )
    segments: SegmentConfig = SegmentConfig()
    advantage: Literal["outcome", "process", "self_distillation"] = Field(
        "outcome",
        description="From one score a rollout, one a segment, or from a teacher that sees the reference instead.",
    )
    estimator: Literal["delta", "end", "group", "batch", "raw"] = Field("delta", description="For advantage=process.")
    faithful: Literal["paper", "code", "recommended"] = Field(
        "recommended", description="The paper's formulas, the released code's (faults included), or ours."
    )
    single_segment: Literal["zero", "grpo", "raw"] | None = Field(
        None, description="What `delta` gives a trace of one segment; default: zero, raw, grpo by `faithful`."
    )
    outcome_mix: float = Field(
        0.0, ge=0, le=1000, description="Process: adds this times the group-relative last score."
    )
    scale: Literal["smooth", "hard", "extremes", "semi_smooth"] = Field(
        "smooth", description="Scores 1..5 to [0, 1]; `smooth` is (score - 1) / 4."
    )
    verified_mix: float = Field(0.0, ge=0, le=1, description="Share of verified correctness in the last score.")
    overlong: Literal["keep", "zero", "penalty", "mask"] = Field(
        "zero", description="A trace that hit its cap: as scored, scores 0, minus 0.5, or left out."
    )
    duplicates: Literal["first", "mean", "error"] = Field("first", description="Several scores of one unit.")
    stale: Literal["drop", "use", "error"] = Field(
        "drop",
        description="Rollouts by another policy than the one that training starts from (train) or stands at (exprl).",
    )
    min_scored: float = Field(
        0.5, ge=0, le=1, description="Stop when a smaller share of the rollouts has a score: something is broken."
    )
    steps_per_round: int = Field(
        1, ge=1, le=MAX_STEPS, description="exprl: training steps on the rollouts of one policy."
    )
    wait_timeout: float = Field(
        86400.0,
        gt=0,
        le=MAX_SECONDS,
        description="exprl without judge.endpoint: seconds to wait for scores that somebody else writes.",
    )
    teacher_template: str = Field(
        "{problem}\n\nA reference solution:\n{reference}\n\nNow solve the problem in your own way.",
        description="What the teacher of self_distillation is asked.",
    )
