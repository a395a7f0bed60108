"""Logical axis names -> mesh axes: the one place that knows how arrays are laid out.

Model code names the meaning of an axis (``batch``, ``heads``, ``mlp``); a ``ShardingRules`` says which
mesh axes that meaning is split over. Two rule sets exist: ``TRAIN`` shards parameters along ``fsdp``;
``ROLLOUT`` does not, so that decoding never gathers a weight (docs/design.md, decision 4). Activations are laid
out alike in both.
"""

import dataclasses
import math

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from extra_jax.errors import ExtraError

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Mesh axes of each logical axis; an empty tuple means replicated."""

    # activations
    batch: MeshAxes = ("data", "fsdp")
    # inside the head, where the positions of all shards of a replica meet a vocabulary that is split over them
    replica: MeshAxes = ("data",)
    wide_vocab: MeshAxes = ("fsdp", "tensor")
    # parameters and activations: the axes that tensor parallelism splits
    vocab: MeshAxes = ("tensor",)
    heads: MeshAxes = ("tensor",)
    kv_heads: MeshAxes = ("tensor",)
    mlp: MeshAxes = ("tensor",)
    # parameters: the model axis, which fully sharded data parallelism splits
    embed: MeshAxes = ("fsdp",)

    def spec(self, *logical: str | None) -> PartitionSpec:
        """Partition of an array whose axes have these meanings; ``None`` is a replicated axis.

        Raises:
            ExtraError: an unknown name, or two axes of one array that want the same mesh axis.
        """
        parts: list[MeshAxes] = []
        for name in logical:
            if name is not None and not hasattr(self, name):
                raise ExtraError(f"unknown logical axis {name!r} in {logical}")
            parts.append(() if name is None else getattr(self, name))
        used = [axis for part in parts for axis in part]
        if len(set(used)) < len(used):
            raise ExtraError(f"logical axes {logical} want one mesh axis twice: {parts}")
        return PartitionSpec(*(part if len(part) > 1 else (part[0] if part else None) for part in parts))


TRAIN = ShardingRules()
ROLLOUT = dataclasses.replace(TRAIN, embed=())


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pins an activation to its layout under the mesh in scope (``jax.set_mesh``); without one it is the identity."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, TRAIN.spec(*logical))


def divides(mesh: Mesh | AbstractMesh, size: int, logical: str) -> bool:
    """Whether an axis of this meaning and size can be split over the mesh; an empty mesh splits nothing."""
    return mesh.empty or size % _ways(mesh, getattr(TRAIN, logical)) == 0


def param_shardings(abstract: nnx.State, mesh: Mesh, rules: ShardingRules) -> nnx.State:
    """Shardings of a parameter tree from the ``axes`` metadata of its variables.

    A variable with one dimension more than it has axes is a stack of layers; the stack axis is replicated.

    Raises:
        ExtraError: a dimension that its mesh axes do not divide, with the parameter and the numbers.
    """

    def sharding(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        value, axes = variable.get_value(), variable.get_metadata()["axes"]
        stack = (None,) * (len(value.shape) - len(axes))
        spec = rules.spec(*stack, *axes)
        for size, part in zip(value.shape, spec, strict=True):
            ways = _ways(mesh, part)
            if size % ways:
                name = ".".join(str(getattr(key, "key", key)) for key in path)
                raise ExtraError(f"{name}: axis of {size} does not divide over mesh axes {part} of size {ways}")
        return variable.replace(NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(sharding, abstract, is_leaf=lambda x: isinstance(x, nnx.Variable))


def batch_sharding(mesh: Mesh | AbstractMesh, row_axis: int = 0) -> NamedSharding:
    """Rows, on axis ``row_axis``, over every data axis; other axes replicated."""
    return NamedSharding(mesh, TRAIN.spec(*[None] * row_axis, "batch"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_ways(mesh: Mesh | AbstractMesh) -> int:
    """Number of shards that rows are split into."""
    return _ways(mesh, TRAIN.batch)


def _ways(mesh: Mesh | AbstractMesh, part: str | MeshAxes | None) -> int:
    names = (part,) if isinstance(part, str) else part or ()
    return math.prod(mesh.shape[name] for name in names)
