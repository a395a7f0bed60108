"""What a completion is worth besides its verdict."""

import numpy as np


def soft_overlong_punishment(lengths: np.ndarray, max_completion_length: int, soft_punish_cache: int) -> np.ndarray:
    """``[R]`` f64 in [-1, 0]: 0 up to ``max_completion_length - soft_punish_cache`` tokens, then linear to -1.

    Args:
        lengths: ``[R]`` tokens, the stop token included.
        max_completion_length: tokens.
        soft_punish_cache: tokens over which the punishment grows; 0 punishes nothing.

    Source: DAPO eq. 13 (arXiv 2503.14476); TRL ``get_soft_overlong_punishment``.
    """
    if not soft_punish_cache:
        return np.zeros(len(lengths))
    over = np.asarray(lengths, np.float64) - (max_completion_length - soft_punish_cache)
    return -np.clip(over / soft_punish_cache, 0.0, 1.0)
