"""The problems that a section of the configuration describes."""

from extra_jax.config import DataConfig
from extra_jax.data.fetch import located
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems


def load_data(data: DataConfig, seed: int, folder: str = "") -> list[Problem]:
    """Loads a ``data`` section, in a fixed order.

    Args:
        seed: of generated problems, and of the choice under ``limit``.
        folder: where standard sets (``math500``, ...) are looked for.

    Raises:
        ExtraError: a file that is missing, or a row that is damaged.
    """
    return load_problems(
        located(data.source, folder),
        split=data.split,
        seed=seed,
        limit=data.limit,
        prompt_template=data.prompt_template,
        system=data.system,
        columns=data.columns or None,
        **data.task,
    )
