"""Problems of Reasoning Gym (Stojanovski et al. 2025, arXiv 2505.24760): ``data.source: reasoning_gym:NAME``.

A problem is a function of the name, the settings and one seed, so that it can be made again where it is graded
(``extra_jax.reward.gym``). Train problems have even seeds and test problems odd ones. A family with few questions can
repeat one all the same; ``--dry-run`` counts the held-out questions that are also training problems.
"""

import difflib
import hashlib
import random
from types import ModuleType
from typing import Any

from extra_jax.data.problem import Problem
from extra_jax.data.tasks.family import SPLITS
from extra_jax.errors import ExtraError

PREFIX = "reasoning_gym:"
_PATIENCE = 200  # draws without a new question after which a family is exhausted


def generate(name: str, count: int, *, seed: int, split: str, **settings: Any) -> list[Problem]:
    """``count`` problems with pairwise different questions; a function of the arguments and the library's version.

    Args:
        name: Of the data set, e.g. ``"leg_counting"``.
        count: How many problems.
        seed: Of the draw.
        split: ``"train"`` or ``"test"``.
        **settings: Of the data set's configuration, e.g. ``max_animals``.

    Raises:
        ExtraError: the library is not installed, no such data set, a bad setting, too few different questions.
    """
    library()
    if split not in SPLITS:
        raise ExtraError(f"{PREFIX}{name}: split is {split!r}; there are {' and '.join(SPLITS)}")
    rng = random.Random(f"{PREFIX}{name}/{split}/{seed}")
    problems: dict[str, Problem] = {}
    misses = 0
    while len(problems) < count:
        item_seed = 2 * rng.randrange(2**30) + SPLITS.index(split)
        entry = make_entry(name, settings, item_seed)[1]
        uid = f"reasoning_gym/{name}/{hashlib.sha256(entry['question'].encode()).hexdigest()[:16]}"
        misses = misses + 1 if uid in problems else 0
        if misses > _PATIENCE:
            raise ExtraError(
                f"{PREFIX}{name}: {count} different questions were asked for and only {len(problems)} were found; ask "
                "for fewer, or make data.task harder"
            )
        meta = {"dataset": name, "settings": dict(settings), "item_seed": item_seed}
        problems.setdefault(
            uid, Problem(uid, entry["question"], str(entry["answer"] or ""), source=PREFIX + name, meta=meta)
        )
    return list(problems.values())


def make_entry(name: str, settings: dict[str, Any], item_seed: int) -> tuple[Any, dict[str, Any]]:
    """The data set of one problem, which scores answers, and the problem as the library has it.

    Raises:
        ExtraError: no such data set (the nearest is named), or a setting that it refuses.
    """
    factory = library()
    if name not in factory.DATASETS:
        close = difflib.get_close_matches(name, factory.DATASETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ExtraError(f"{PREFIX}{name}: Reasoning Gym has no such data set.{hint}")
    try:
        dataset = factory.create_dataset(name, seed=item_seed, size=1, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        raise ExtraError(f"{PREFIX}{name}: data.task is refused: {error}") from error
    return dataset, dataset[0]


def library() -> ModuleType:
    """``reasoning_gym.factory``.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        import reasoning_gym.factory
    except ImportError as error:
        raise ExtraError(
            f"{PREFIX}NAME needs Reasoning Gym ({error}); run `pip install 'extra-jax[reasoning-gym]'`"
        ) from error
    return reasoning_gym.factory
