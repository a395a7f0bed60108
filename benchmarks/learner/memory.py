"""Memory of an update at the real vocabulary, with the head in chunks and whole: what XLA allocates on the CPU.

Two layers, one row of 4,096 tokens, V = 151,936, f32. Compiles only; nothing of that size is run.

    python benchmarks/learner/memory.py
"""

import jax
import numpy as np
from flax import nnx

from extra_jax.config import MeshConfig, config_from_dict
from extra_jax.learn import score
from extra_jax.learn.batch import MicroBatches, TokenBatch
from extra_jax.learn.grpo import Learner
from extra_jax.learn.update import abstract_state
from extra_jax.model.config import preset
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.sharding import TRAIN, param_shardings

LENGTH = 4096


def temporaries() -> int:
    """Bytes that the compiled update allocates besides its arguments."""
    config = config_from_dict(
        {
            "model": {"preset": "smoke", "dtype": "float32"},
            "rollout": {"max_prompt_length": 512, "max_completion_length": LENGTH - 512},
        }
    )
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Qwen3(preset("smoke"), rngs=nnx.Rngs(0))))
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        params,
        param_shardings(params, mesh, TRAIN),
    )
    learner = Learner(graphdef, config, mesh)
    columns = [jax.ShapeDtypeStruct((1, 1, LENGTH), dtype) for dtype in (np.int32,) * 3 + (np.float32,) * 3]
    batches = MicroBatches(TokenBatch(*columns), jax.ShapeDtypeStruct((), np.int32))
    with jax.set_mesh(mesh):
        lowered = learner.update.program.lower(abstract_state(params, learner.optimizer, mesh), batches)
        return lowered.compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    chunked = temporaries()
    score._CHUNK_LOGITS = LENGTH * preset("smoke").vocab_size
    whole = temporaries()
    print(f"in chunks {chunked / 1e9:.2f} GB, whole {whole / 1e9:.2f} GB: 1 / {whole / chunked:.1f}")


if __name__ == "__main__":
    main()
