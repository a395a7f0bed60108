"""The models and batches that the benchmarks of the rollout engine and of the learner can be asked for by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shape:
    """A Qwen3 with random weights, and what is asked of it: ``prompts * group`` completions, whose lengths have
    ``mean`` tokens and end at ``cap``."""

    layers: int
    d: int
    f: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    prompts: int
    group: int
    prompt: int  # tokens
    mean: int
    cap: int

    @property
    def completions(self) -> int:
        return self.prompts * self.group

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """As many of the nearly equally likely tokens as make completions of ``mean`` tokens."""
        return tuple(range(round(self.vocab / self.mean)))

    @property
    def learned(self) -> int:
        """Completions that a step of the learner's benchmark is about: four groups."""
        return 4 * self.group

    def config(self) -> Any:
        from extra_jax.model.config import Qwen3Config

        return Qwen3Config(self.vocab, self.d, self.f, self.layers, self.heads, self.kv_heads, head_dim=self.head)

    def prompt_ids(self) -> np.ndarray:
        """``[prompts, prompt]`` without stop tokens."""
        first = len(self.stop_ids)
        return np.random.default_rng(0).integers(first, self.vocab, (self.prompts, self.prompt))

    def export(self, folder: Path) -> None:
        """The weights that every system loads, as a Hugging Face folder."""
        import jax
        from flax import nnx

        from extra_jax.model.hf import save_params
        from extra_jax.model.qwen3 import Qwen3

        params = jax.jit(lambda: nnx.state(Qwen3(self.config(), rngs=nnx.Rngs(0))))()
        save_params(folder, params, self.config(), dtype="float32")


SHAPES = {
    "middle": Shape(8, 512, 1536, 8, 4, 64, 4096, prompts=16, group=8, prompt=64, mean=64, cap=256),
    "deep": Shape(12, 384, 1024, 6, 2, 64, 8192, prompts=12, group=6, prompt=100, mean=96, cap=400),
    # the sizes of Qwen2.5-0.5B
    "half_billion": Shape(24, 896, 4864, 14, 2, 64, 151_936, prompts=4, group=4, prompt=64, mean=32, cap=64),
    # the model of the package and the batch of configs/quickstart.yaml
    "tiny": Shape(4, 128, 384, 4, 2, 32, 64, prompts=64, group=8, prompt=13, mean=20, cap=48),
}
