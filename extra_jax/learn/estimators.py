"""The advantage estimators that the package ships: rewards -> advantages, on the host, in float64, without jax.

``P`` prompts, ``G`` completions of each. ``valid [P, G]`` is 1 where a reward says something about the policy. The
other completions (a grader that failed) enter no baseline and no count, and get 0, as if the group were smaller.
Formulas and sources are also in ``docs/howto/own-advantage.md``.
"""

from math import comb
from typing import Literal

import numpy as np

from extra_jax.errors import ExtraError


def grpo(
    rewards: np.ndarray,
    valid: np.ndarray,
    scale_rewards: Literal["group", "batch", "none"] = "group",
    epsilon: float = 1e-4,
) -> np.ndarray:
    """GRPO: ``(r - mean of the group) / (std + epsilon)``.

    Args:
        rewards: ``[P, G]``.
        valid: ``[P, G]`` bool.
        scale_rewards: ``group`` divides by the sample std (ddof 1) of the group; ``batch`` by that of all valid
            rewards; ``none`` does not divide.
        epsilon: added to the standard deviation; TRL's by default.

    Returns:
        ``[P, G]``. A group with fewer than two valid rewards gets zeros.

    Source: DeepSeekMath (arXiv 2402.03300) eq. 3; TRL ``GRPOTrainer``, which excludes ``None`` rewards likewise.
    """
    deviations, count = centred(rewards, valid)
    if scale_rewards == "none":
        return deviations
    if scale_rewards == "group":
        std = np.sqrt((deviations**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    else:
        everywhere = np.asarray(rewards, np.float64)[np.asarray(valid, bool)]
        std = np.std(everywhere, ddof=1) if everywhere.size > 1 else 0.0
    return deviations / (std + epsilon)


def dr_grpo(rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Dr. GRPO: ``r - mean of the group``, without a division that favours groups that nearly agree.

    Its other half, a constant in place of the length of a completion, is ``train.loss_type=dr_grpo``.

    Source: arXiv 2503.20783.
    """
    return grpo(rewards, valid, "none")


def rloo(rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Leave-one-out REINFORCE: ``r - mean of the others in the group = (r - mean) n / (n - 1)``.

    Source: arXiv 2402.14740; verl ``compute_rloo_outcome_advantage``.
    """
    deviations, count = centred(rewards, valid)
    return deviations * count / np.maximum(count - 1, 1)


def maxrl(rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """MaxRL: ``(r - mean) / mean`` of the group; 0 for a group whose rewards are all 0.

    Its policy gradient with groups of ``n`` is on average that of ``sum over k < n of pass@k / k``, which tends to that
    of ``log p(correct)``: maximum likelihood of a correct answer.

    Raises:
        ExtraError: a negative reward, for which a division by the mean has no meaning.

    Source: arXiv 2602.02710; the released code adds 1e-6 to the mean, which a group with a success does not need.
    """
    if (np.asarray(rewards)[valid] < 0).any():
        raise ExtraError("maxrl divides by the mean reward and needs rewards of 0 or more; use another advantage")
    deviations, count = centred(rewards, valid)
    mean = np.where(valid, rewards, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    return np.divide(deviations, mean, out=np.zeros_like(deviations), where=mean > 0)


def pass_at_k(rewards: np.ndarray, valid: np.ndarray, k: int = 4, epsilon: float = 1e-6) -> np.ndarray:
    """Pass@k training, over all ``C(n, k)`` subsets of a group instead of sampled ones.

    The reward of a subset is the largest reward in it, and its advantage ``(largest - mean) / (std + epsilon)``, mean
    and std (ddof 0) over the subsets. A completion gets the mean advantage of the subsets that it is in. With rewards
    ``r_1 <= ... <= r_n`` the j-th is the largest of ``C(j-1, k-1)`` subsets, and of ``C(j-2, k-2)`` of those with a
    given smaller one. For ``c`` ones and ``n - c`` zeros, ``rho = 1 - C(n-c, k) / C(n, k)``, this is the paper's
    ``(1 - rho) / sigma`` for a one and ``(1 - rho - C(n-c-1, k-1) / C(n-1, k-1)) / sigma`` for a zero, with
    ``sigma = sqrt(rho (1 - rho))``.

    Args:
        rewards: ``[P, G]``.
        valid: ``[P, G]`` bool. A group with fewer than ``k`` of them gets zeros.
        k: completions of a subset, at least 1 and fewer than ``G``: with all of them there is one subset.
        epsilon: added to the standard deviation; that of the released code.

    Raises:
        ExtraError: ``k`` is out of range.

    Source: arXiv 2508.10751; RUCAIBox/Passk_Training ``passk_adv.py``.
    """
    groups, size = np.shape(rewards)
    if not 1 <= k < size:
        raise ExtraError(f"pass_at_k with k={k} learns nothing from groups of {size}; use 1 <= k < num_generations")
    out = np.zeros((groups, size))
    for row in range(groups):
        members = np.flatnonzero(valid[row])
        n = len(members)
        if n < k:
            continue
        order = members[np.argsort(rewards[row, members], kind="stable")]
        above = rewards[row, order] - rewards[row, order[0]]  # exact zeros for equal rewards
        largest = np.array([comb(j, k - 1) / comb(n, k) for j in range(n)])  # share of subsets; j counts from 0
        mean = largest @ above
        std = np.sqrt(largest @ (above - mean) ** 2)
        own = np.array([comb(j, k - 1) / comb(n - 1, k - 1) for j in range(n)])
        other = np.array([comb(j - 1, k - 2) / comb(n - 1, k - 1) if j and k > 1 else 0.0 for j in range(n)])
        later = np.cumsum((other * above)[::-1])[::-1] - other * above  # where a later one is the largest
        out[row, order] = (own * above + later - mean) / (std + epsilon)
    return out


def w_reinforce(
    rewards: np.ndarray, valid: np.ndarray, correct: np.ndarray, positive_weight: float = 0.1
) -> np.ndarray:
    """W-REINFORCE: ``positive_weight`` for a correct completion and -1 for a wrong one, without a baseline.

    Wrong completions are pushed away at full strength and right ones pulled at a tenth, which keeps the entropy. Groups
    that are all right or all wrong are learned from. Only ``correct`` matters, not the size of a reward.

    Source: arXiv 2506.01347 (weight lambda = 0.1); TianHongZXY/RLVR-Decomposed ``compute_psr_nsr_outcome_advantage``.
    """
    return np.where(valid, np.where(correct, positive_weight, -1.0), 0.0)


def unlikeliness(
    rewards: np.ndarray,
    valid: np.ndarray,
    correct: np.ndarray,
    logprobs: np.ndarray,
    lengths: np.ndarray,
    rank_penalty: float = 0.25,
    epsilon: float = 1e-4,
) -> np.ndarray:
    """GRPO with rewards of correct completions lowered by how likely they are: ``r (1 - rank_penalty * rank / n)``.

    ``rank`` of the ``n`` valid completions of a group counts from 0, the least likely, by the mean log-probability of
    their tokens; equal ones share the mean of their ranks.

    Source: arXiv 2506.02355; AndreHe02/rewarding-unlikely-release ``_compute_advantages``, which ranks by the mean and
    not, as the paper, by the whole sequence.
    """
    mean = np.where(valid, logprobs / np.maximum(lengths, 1), np.inf)
    below = (mean[:, None, :] < mean[:, :, None]).sum(axis=2)  # [P, G]: how many are less likely
    equal = (mean[:, None, :] == mean[:, :, None]).sum(axis=2)
    rank = below + (equal - 1) / 2
    share = rank / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return grpo(np.where(correct, rewards * (1 - rank_penalty * share), rewards), valid, epsilon=epsilon)


def ucpo(
    rewards: np.ndarray,
    valid: np.ndarray,
    correct: np.ndarray,
    logprobs: np.ndarray,
    lengths: np.ndarray,
    tau: float = 0.2,
    epsilon: float = 1e-4,
) -> np.ndarray:
    """Uniform-Correct Policy Optimization: the advantage of correct completions, shared out towards the unlikely ones.

    Of the ``m`` correct completions of a group, ``q`` is the softmax of the mean log-probability of their tokens. The
    GRPO advantage of each is multiplied by ``(1 - tau) + tau m (1 / q_i) / sum_j (1 / q_j)``, which has mean 1: the sum
    over the correct ones stays as it is. ``tau=0`` is GRPO; the others keep its advantage.

    Source: arXiv 2605.00365; AnamikaLochab/UCPO, estimator ``iq`` with ``tau`` 0.2 (its scripts), which also keeps
    ``q`` above 1e-6.
    """
    chosen = valid & correct
    surprise = np.where(chosen, -logprobs / np.maximum(lengths, 1), -np.inf)  # log(1 / q), but for a constant
    surprise -= np.max(surprise, axis=1, keepdims=True, where=chosen, initial=-1e300)
    inverse = np.exp(surprise)  # 0 for the others
    total = inverse.sum(axis=1, keepdims=True)
    weight = 1 - tau + tau * chosen.sum(axis=1, keepdims=True) * inverse / np.maximum(total, 1e-300)
    advantages = grpo(rewards, valid, epsilon=epsilon)
    return np.where(chosen, weight * advantages, advantages)


def centred(rewards: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[P, G]`` rewards less the mean of the valid ones in their group, and ``[P, 1]`` how many these are.

    Zeros where not valid, and where fewer than two are.
    """
    rewards, valid = np.asarray(rewards, np.float64), np.asarray(valid, bool)
    count = valid.sum(axis=1, keepdims=True)
    lowest = np.min(rewards, axis=1, keepdims=True, where=valid, initial=np.inf)
    above = np.where(valid, rewards - lowest, 0.0)  # exact zeros for equal rewards, whose mean may round elsewhere
    mean = above.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    return np.where(valid & (count >= 2), above - mean, 0.0), count
