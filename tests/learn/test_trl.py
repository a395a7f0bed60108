"""Whole GRPO steps against the same steps in torch: ``transformers``' model, TRL's loss, torch's AdamW."""

import itertools

import jax
import numpy as np
import pytest
import torch
from rollout.tiny import CONFIG, params, sequences
from safetensors.numpy import load_file
from transformers import Qwen3ForCausalLM

from extra_jax.model.hf import save_params
from learn.steps import (
    CAP,
    GROUP,
    MAX_PROMPT,
    ONE_MICRO_BATCH,
    OPTIM,
    PLAIN,
    TRAIN,
    frozen_advantages,
    frozen_rollouts,
    learner,
    plain_learner,
    reference,
    run_step,
    with_train,
)

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other
MAX_STEPS = TRAIN["max_steps"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Policy and reference as ``transformers`` reads them."""
    root = tmp_path_factory.mktemp("hf")
    save_params(root / "policy", params(), CONFIG, dtype="float32")
    save_params(root / "reference", reference(), CONFIG, dtype="float32")
    return root


def load(folder) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def completion_logprobs(model, rollouts) -> torch.Tensor:
    """``[R, CAP]``: prompt and completion of a rollout in a row, padded on the right; rubbish beyond the completion."""
    tokens = torch.zeros(len(rollouts), MAX_PROMPT + CAP, dtype=torch.long)
    padding, targets = torch.zeros_like(tokens), torch.zeros(len(rollouts), CAP, dtype=torch.long)
    for row, sequence in enumerate(sequences(rollouts)):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        padding[row, : len(sequence)] = 1
        first = len(rollouts.prompt_ids[row]) - 1  # predicts the first completion token
        targets[row] = torch.arange(first, first + CAP)
    logprobs = model(tokens, attention_mask=padding).logits.log_softmax(-1)
    logprobs = logprobs.gather(1, targets[..., None].expand(-1, -1, logprobs.shape[-1]))
    return logprobs.gather(-1, torch.tensor(rollouts.tokens, dtype=torch.long)[..., None])[..., 0]


def torch_steps(folders, settings: dict) -> tuple[Qwen3ForCausalLM, list[dict[str, float]]]:
    """All iterations over all mini-batches; TRL's ``_compute_loss`` written anew, one process, one accumulation."""
    plain, iterations = settings.get("beta") == 0, settings.get("num_iterations", 2)
    rollouts, advantages = frozen_rollouts(), torch.tensor(frozen_advantages(), dtype=torch.float32)
    model, frozen = load(folders / "policy"), load(folders / "reference")
    parts = settings.get("num_minibatches", 1)
    groups = [[r for r in range(len(rollouts)) if r // GROUP % parts == part] for part in range(parts)]
    with torch.no_grad():
        old, ref = (completion_logprobs(m, rollouts) for m in (model, frozen))
    mask = rollouts.completion_mask
    if settings.get("mask_truncated_completions"):
        mask = mask & ~rollouts.truncated[:, None]
    mask = torch.tensor(mask).float()

    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.0 if plain else OPTIM["weight_decay"]},
            {"params": norms, "weight_decay": 0.0},
        ],
        lr=OPTIM["learning_rate"],
        eps=OPTIM["adam_epsilon"],
    )
    total = MAX_STEPS * iterations  # updates of the compiled learner's cosine, whatever ``with_train`` changes
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 * (1 + np.cos(np.pi * n / total)))
    told = []
    for _, rows in itertools.product(range(iterations), groups):
        new, m, a = completion_logprobs(model, rollouts)[rows], mask[rows], advantages[rows][:, None]
        ratio = torch.exp(new - old[rows])
        per_token = -torch.min(ratio * a, torch.clamp(ratio, 0.8, 1.28) * a)
        kl = ratio * (torch.exp(ref[rows] - new) - (ref[rows] - new) - 1)  # use_bias_correction_kl
        per_token = per_token if plain else per_token + TRAIN["beta"] * kl
        loss = {
            "grpo": lambda x, m: ((x * m).sum(-1) / m.sum(-1).clamp(min=1)).mean(),
            "dr_grpo": lambda x, m: (x * m).sum() / (len(x) * CAP),
            "dapo": lambda x, m: (x * m).sum() / m.sum(),
            "bnpo": lambda x, m: (x * m).sum() / m.sum(),
        }[settings["loss_type"]](per_token, m)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM["max_grad_norm"])
        optimizer.step()
        schedule.step()
        low, high = (ratio < 0.8) & (a < 0), (ratio > 1.28) & (a > 0)
        means = {
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low | high,
            "sampling/sampling_logp_difference/mean": (old - torch.tensor(rollouts.logprobs)).abs()[rows],
        }
        means |= {} if plain else {"kl": kl}
        told.append({name: ((x * m).sum() / m.sum()).item() for name, x in means.items()})
        told[-1] |= {"loss": loss.item(), "grad_norm": norm.item()}
    return model, told


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "grpo"},
        {"loss_type": "dr_grpo"},
        {"loss_type": "dapo"},
        {"loss_type": "bnpo", **ONE_MICRO_BATCH},
        {"loss_type": "grpo", "mask_truncated_completions": True},
        {"loss_type": "dapo", "mask_truncated_completions": True, "num_minibatches": 2, **ONE_MICRO_BATCH},
        {"loss_type": "dapo", **PLAIN},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_steps_equal_those_of_trl_in_torch(folders, tmp_path, settings):
    expected, expected_told = torch_steps(folders, settings)
    compiled = learner() if settings.get("beta", True) else plain_learner()
    new, told = run_step(with_train(compiled, **settings))
    assert len(told) == len(expected_told)
    for ours, theirs in zip(told, expected_told, strict=True):
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    save_params(tmp_path / "new", jax.device_put(new), CONFIG, dtype="float32")
    ours = load_file(tmp_path / "new" / "model.safetensors")
    theirs = {name: value.numpy() for name, value in expected.state_dict().items() if name in ours}
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)
