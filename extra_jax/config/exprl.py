"""ExpRL: how traces are cut and judged, and what the scores are worth."""

from typing import Literal

from pydantic import Field

from extra_jax.config.section import Section


class SegmentConfig(Section):
    """How a trace is cut into the pieces that a process judge scores."""

    delimiter: str = Field(
        r"^#{2,6}\s", description="Regular expression (^ is a line start); a match opens a segment. ASCII only."
    )
    min_tokens: int = Field(16, ge=1, description="A shorter piece joins the next one, the last one its predecessor.")
    max_segments: int = Field(24, ge=1, description="More are merged evenly, neighbours with neighbours.")
    fallback: Literal["none", "blank_lines", "equal_tokens"] = Field(
        "none", description="What cuts a trace that the delimiter leaves whole."
    )
