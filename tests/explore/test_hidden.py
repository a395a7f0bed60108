"""``policy_hidden``: the mean of the policy's last hidden state over a completion, against the torch model."""

import numpy as np
import torch
from model.torch_qwen3 import load_ours, save_torch, torch_model
from rollout.tiny import mesh

from extra_jax.explore.hidden import HiddenEncoder
from extra_jax.rollout.types import Rollouts, StopReason


def test_hidden_vectors_are_those_of_the_torch_model(tmp_path):
    reference = torch_model()
    ours = load_ours(save_torch(reference, tmp_path))
    rng = np.random.default_rng(0)
    lengths, prompts, prefixes = (
        np.array([3, 9, 1, 5]),
        (rng.integers(0, 96, 4), rng.integers(0, 96, 7)),
        ((), (5, 6, 7)),
    )
    rollouts = Rollouts(
        rollout_ids=np.arange(4),
        prompt_index=np.array([0, 0, 1, 1]),
        prompt_ids=[prompts[0], prompts[0], prompts[1], prompts[1]],
        tokens=rng.integers(0, 96, (4, 9)),
        lengths=lengths,
        logprobs=np.zeros((4, 9), np.float32),
        entropies=np.zeros((4, 9), np.float32),
        stop_reasons=[StopReason.STOP_TOKEN] * 4,
        prefix_ids=[np.array(prefixes[i], int) for i in (0, 0, 1, 1)],
        full_logprobs=np.zeros((4, 9), np.float32),
        log_kept=np.zeros((4, 9), np.float32),
    )
    encoder = HiddenEncoder(ours.graphdef, mesh("1"), rows_per_shard=3, dtype="float32")
    found = encoder.encode(ours.params, rollouts)
    for row in range(4):
        context = [*rollouts.prompt_ids[row], *prefixes[rollouts.prompt_index[row]]]
        ids = torch.tensor([[*context, *rollouts.completion_ids(row)]])
        with torch.no_grad():
            hidden = reference.model(ids).last_hidden_state[0, len(context) :].mean(0)
        np.testing.assert_allclose(found[row], torch.nn.functional.normalize(hidden, dim=0).numpy(), atol=1e-4)
    assert found.dtype == np.float32
