"""The loss, its gradient and its metrics against TRL's own code: ``GRPOTrainer._compute_loss``, given our numbers.

The variants and inputs are those of ``tests/learn/test_loss.py``, where TRL's formulas are written anew; here TRL
itself computes. Its KL estimator is k3 and its ratio between sampler and learner comes with the batch, so the variants
with other estimators are left out and that ratio is computed as its rollout code does. Needs trl 1.16.

    python benchmarks/learner/trl_check.py
"""

import sys
import types
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from learn.test_loss import CAP, VARIANTS, name_of, ours, tokens
from trl.trainer.grpo_trainer import GRPOTrainer

from extra_jax.config import GRPOConfig

IDENTITY = types.SimpleNamespace(
    num_processes=1,
    sync_gradients=True,
    gather=lambda x: x,
    reduce=lambda x, reduction: x,
    pad_across_processes=lambda x, dim, pad_index: x,
)


def trl(config: GRPOConfig, data: dict[str, np.ndarray]) -> tuple[float, list[np.ndarray], dict[str, float]]:
    new, old, ref, sampler, entropy, advantage = (
        torch.tensor(data[name]) for name in ("new", "old", "ref", "sampler", "entropy", "advantage")
    )
    mask = torch.tensor(data["mask"]).float()
    new.requires_grad_()
    entropy.requires_grad_()
    self = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (new, entropy, None),
        accelerator=IDENTITY,
        model=types.SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        args=types.SimpleNamespace(
            delta=config.delta, use_bias_correction_kl=config.use_bias_correction_kl, steps_per_generation=1
        ),
        loss_type=config.loss_type,
        importance_sampling_level=config.importance_sampling_level,
        epsilon_low=config.epsilon,
        epsilon_high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
        beta=config.beta,
        top_entropy_quantile=config.top_entropy_quantile,
        entropy_coef=config.entropy_coef,
        _entropy_bonus_enabled=config.entropy_coef != 0,
        use_adaptive_entropy=False,
        off_policy_mask_threshold=None,
        use_vllm=config.importance_sampling_correction is not None,
        vllm_importance_sampling_correction=True,
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=CAP,
    )
    self.get_high_entropy_mask = types.MethodType(GRPOTrainer.get_high_entropy_mask, self)
    rows = len(mask)
    inputs = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantage[:, 0],
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    if mode := config.importance_sampling_correction:
        gap = (old - sampler) * mask
        ratio = torch.exp(gap.sum(-1, keepdim=True) if mode.startswith("sequence") else gap)
        low, high = config.importance_sampling_clip_min, config.importance_sampling_clip_max
        if mode.endswith("truncate"):
            ratio = torch.clamp(ratio, min=low, max=high)
        else:
            outside = (ratio < (low or -torch.inf)) | (ratio > (high or torch.inf))
            ratio = ratio.masked_fill(outside, 0.0)
        inputs["importance_sampling_ratio"] = ratio
    loss = GRPOTrainer._compute_loss(self, None, inputs)
    loss.backward()
    told = {name: values[0] for name, values in self._metrics["train"].items()}
    gradients = [x.grad if x.grad is not None else torch.zeros_like(x) for x in (new, entropy)]
    return loss.item(), [gradient.numpy() for gradient in gradients], told


def main() -> None:
    worst = 0.0
    checked = 0
    for variant in VARIANTS:
        config = GRPOConfig(**variant)
        if config.beta and config.kl_estimator != "k3":
            continue
        data = tokens(seed=3)
        data["policy_entropy"] = data["entropy"]  # TRL has one entropy: that of the policy
        value, gradients, told = ours(variant, data)
        expected, expected_gradients, expected_told = trl(config, data)
        names = sorted(told.keys() & expected_told.keys())
        if config.importance_sampling_level == "sequence":  # TRL counts the sequence that is left out, too
            names = [name for name in names if "clip" not in name]
        gaps = [abs(value - expected)]
        gaps += [float(np.abs(a - b).max()) for a, b in zip(gradients, expected_gradients, strict=True)]
        gaps += [abs(told[name] - expected_told[name]) for name in names]
        worst, checked = max(worst, *gaps), checked + 1
        print(f"{max(gaps):.1e}  {name_of(variant)}")
        assert max(gaps) < 1e-5, (variant, gaps, names)
    print(f"{checked} variants against trl {version('trl')}: largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
