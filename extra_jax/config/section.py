"""What every section of the configuration is."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

DType = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
