"""An own bonus: correct completions whose mean hidden state points where few have been (RepExp, arXiv 2510.11686).

extra-jax train configs/quickstart.yaml 'explore.bonus={"docs/examples/own_bonus.py:elliptical": {"alpha": 0.3}}'
"""

import numpy as np

from extra_jax.explore import Transform, bonus, cap, correct_only, standardise


def elliptical(alpha: float = 0.3, ridge: float = 1.0, decay: float = 0.99) -> Transform:
    """``sqrt(h' (ridge I + C)^-1 h)`` with the running second moment ``C`` of the mean hidden states ``h [N, D]``."""

    def update(step, values, state):
        h = step.hidden.astype(np.float64)  # [N, D]
        covariance = state.get("covariance", np.zeros((h.shape[1], h.shape[1])))
        inverse = np.linalg.inv(covariance + ridge * np.eye(h.shape[1]))
        far = np.sqrt(np.einsum("nd,de,ne->n", h, inverse, h)).reshape(values.shape)  # [P, G]
        seen = decay * covariance + h.T @ h / len(h)
        return far, {"covariance": seen}, {"elliptical_mean": far.mean()}

    far = Transform(init=lambda run: {}, update=update, reads=("hidden",))
    return bonus(far, correct_only(), standardise(alpha), cap(3 * alpha, 1.5))
