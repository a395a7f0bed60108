"""How the frequencies of the rotary embedding are changed for contexts that are longer than those of the pretraining.

They are part of a model's configuration, which is read where jax is not wanted, so it is imported when it is needed.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from extra_jax.errors import ExtraError

if TYPE_CHECKING:
    import jax

Positions = Annotated[int, Field(ge=1, le=1 << 31)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Llama3Scaling:
    """Llama 3.1 and later: slow frequencies are divided by ``factor``, fast ones are kept, those between are mixed.

    Slow is less than ``low_freq_factor`` turns within the original context, fast is more than ``high_freq_factor``.
    Source: ``rope_type`` llama3 of transformers (``_compute_llama3_parameters``).
    """

    factor: Annotated[float, Field(ge=1, le=1e6)]
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Positions
    rope_type: Literal["llama3"] = "llama3"

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ExtraError(
                f"high_freq_factor={self.high_freq_factor} is not above low_freq_factor={self.low_freq_factor}"
            )

    @property
    def magnitude(self) -> float:
        """What the cosines and sines are multiplied by."""
        return 1.0

    def scale(self, frequencies: "jax.Array", theta: float) -> "jax.Array":
        """Angles per position ``[H/2]`` of the base ``theta``, changed."""
        import jax.numpy as jnp

        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = jnp.clip(kept, 0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@dataclass(frozen=True, config=_STRICT)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), which Qwen3 and Qwen2.5 state for contexts beyond 32,768 tokens.

    Pairs that turn less than ``beta_slow`` times within the original context are slowed down by ``factor``, those
    that turn more than ``beta_fast`` times are kept, and a ramp over the index of the pair lies between.
    ``attention_factor`` multiplies cosines and sines; ``None`` is ``0.1 ln(factor) + 1``.
    """

    factor: Annotated[float, Field(ge=1, le=1e6)]
    original_max_position_embeddings: Positions
    attention_factor: Positive | None = None
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    rope_type: Literal["yarn"] = "yarn"

    @property
    def magnitude(self) -> float:
        """What the cosines and sines are multiplied by."""
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor

    def scale(self, frequencies: "jax.Array", theta: float) -> "jax.Array":
        """Angles per position ``[H/2]`` of the base ``theta``, changed."""
        import jax.numpy as jnp

        pairs = frequencies.shape[0]

        def pair(turns: float) -> float:
            """The index of the pair that turns so often within the original context."""
            return pairs * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi)) / math.log(theta)

        # transformers bounds the ramp by the head dim, not by the number of pairs
        low, high = max(math.floor(pair(self.beta_fast)), 0), min(math.ceil(pair(self.beta_slow)), 2 * pairs - 1)
        slowed = (jnp.arange(pairs, dtype=jnp.float32) - low) / (high - low if high != low else 0.001)
        slowed = jnp.clip(slowed, 0, 1)
        return frequencies / self.factor * slowed + frequencies * (1 - slowed)


RopeScaling = Llama3Scaling | YarnScaling
SCALINGS: dict[str, type[Llama3Scaling] | type[YarnScaling]] = {"llama3": Llama3Scaling, "yarn": YarnScaling}
