"""What every section of the configuration is, and how far its numbers go."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

DType = Literal["float32", "bfloat16"]

MAX_STEPS = 10**9  # also updates: years of training, so a slip of the keyboard
MAX_TOKENS = 2**20  # of one text: more than any model here reads
MAX_ROWS = 2**16  # texts side by side (prompts, samples, slots, requests) and devices: arrays of this size fit a host
MAX_SECONDS = 10**7  # four months

Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Rows = Annotated[int, Field(ge=1, le=MAX_ROWS)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Temperature = Annotated[float, Field(ge=0, le=100)]  # above it tokens are drawn evenly, whatever the model says


class Section(BaseModel):
    """Base of every section: frozen, an unknown key is an error, and a value is of the type that the field says.

    A truth value is no number, text is no number, no number is infinite, and no text is empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, str_min_length=1)

    @field_validator("*", mode="before")
    @classmethod
    def _list_as_tuple(cls, value: Any) -> Any:
        """YAML and JSON know no tuples."""
        return tuple(value) if isinstance(value, list) else value
