"""What every section of the configuration is, and how far its numbers go."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["float32", "bfloat16"]

MAX_STEPS = 10**9
"""Steps, updates and problems: years of training, so a slip of the keyboard."""
MAX_TOKENS = 2**20
"""Tokens of one text: more than any model here reads."""
MAX_ROWS = 2**16
"""Texts side by side (prompts, samples, rows, slots, requests) and devices: arrays of this size still fit a host."""
MAX_TEMPERATURE = 100.0
"""Above it tokens are drawn evenly, whatever the model says."""
MAX_SECONDS = 10**7
"""Four months."""

Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Rows = Annotated[int, Field(ge=1, le=MAX_ROWS)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Temperature = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)]


class Section(BaseModel):
    """Base of every section: frozen, an unknown key is an error, and a value is of the type that the field says.

    A truth value is no number, text is no number, no number is infinite, and no text is empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, str_min_length=1)
