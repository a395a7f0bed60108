"""One of two processes that load a Hugging Face folder together and export it again; started by ``test_hf.py``."""

import sys

import jax
import numpy as np

from extra_jax.config import MeshConfig, ModelConfig
from extra_jax.errors import ExtraError
from extra_jax.model.hf import save_params
from extra_jax.model.load import build_model
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.processes import agree, gather_objects, share


def main(address: str, process: str, source: str, target: str) -> None:
    """``source`` on a mesh over both processes -> ``target``; then the refusal to write it again, on both."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    rank = int(process)
    # Of different lengths, with a text that a codec could break on.
    assert gather_objects([f"{rank}\ud800"] * (rank + 1)) == ["0\ud800", "1\ud800", "1\ud800"]
    assert gather_objects([None] * rank) == [None]
    assert agree([rank, 2 - rank]).tolist() == [1, 2]
    assert (bool(agree(rank == 1)), bool(agree(rank == 1, np.min))) == (True, False)
    assert list(share(5)) == [[0, 1], [2, 3, 4]][rank]
    model = build_model(ModelConfig(path=source), make_mesh(MeshConfig(fsdp=4, tensor=2)))
    kernel = model.params["layers"]["mlp"]["up_proj"]["kernel"].get_value()
    held = sum(shard.data.size for shard in kernel.addressable_shards)
    assert held == kernel.size // 2, (held, kernel.size)
    save_params(target, model.params, model.config, dtype="float32", max_shard_bytes=40_000)
    try:
        save_params(target, model.params, model.config)
    except ExtraError as error:
        print("refused:", error)
    else:
        raise AssertionError("the second export was not refused")
    assert np.isfinite(float(model.params["embed"][...].sum()))


if __name__ == "__main__":
    main(*sys.argv[1:])
