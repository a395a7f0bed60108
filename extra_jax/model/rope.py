"""Rotary embedding, and how its frequencies are changed for contexts that are longer than those of the pretraining."""

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from extra_jax.errors import ExtraError

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

    def scale(self, frequencies: jax.Array, theta: float) -> jax.Array:
        """Angles per position ``[H/2]`` of the base ``theta``, changed."""
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

    def scale(self, frequencies: jax.Array, theta: float) -> jax.Array:
        """Angles per position ``[H/2]`` of the base ``theta``, changed."""
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


def rope(positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None) -> jax.Array:
    """Cosines and sines of the angles of the rotary embedding, ``[2, B, T, 1, H/2]``, f32; once for all layers."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = scaling.scale(frequencies, theta)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    turns = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
    if scaling is not None:
        turns *= scaling.magnitude
    # else XLA computes them again for every head of every layer, where they are added to something
    return jax.lax.optimization_barrier(turns)


def rotate(x: jax.Array, rope: jax.Array) -> jax.Array:
    """Rotates ``x [B, T, heads, H]``, in f32; halves are paired as Qwen and Llama pair them in transformers."""
    cos, sin = rope
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
