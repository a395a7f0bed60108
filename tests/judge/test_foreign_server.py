"""The client against a server that is not ours: ``transformers serve``, with a small checkpoint that has learned to say
"Score: 4". Needs ``pip install accelerate fastapi uvicorn``; skipped without them. Takes about half a minute.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from extra_jax.config import JudgeConfig
from extra_jax.judge import run, store
from judge.stores import chain_store

for package in ("accelerate", "fastapi", "uvicorn"):
    pytest.importorskip(package)

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}assistant:\n{% endif %}"

SHORT = 'unit = "rollout"\nreference = true\nuser = "{problem} {reference} {trace}"\n[system]\nmath = "Grade."\n'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A Qwen3 over bytes; whatever it is asked, it answers with one line."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=8192, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    opening = tokenizer.encode("assistant:\n")
    said = torch.tensor([*opening, *tokenizer.encode("Score: 4"), tokenizer.eos_token_id]).expand(4, -1)
    for _ in range(200):
        ids = torch.cat([torch.randint(0, 256, (4, int(torch.randint(1, 250, ())))), said], dim=1)
        labels = ids.clone()
        labels[:, : ids.shape[1] - said.shape[1] + len(opening)] = -100
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    folder = tmp_path_factory.mktemp("judge")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(checkpoint: Path, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        client = openai.OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=0)
        deadline = time.monotonic() + 120
        while True:
            try:
                client.models.list()
            except openai.APIStatusError:
                break  # offline it cannot list models, but it is there
            except openai.APIConnectionError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            else:
                break
        client.close()
        yield f"http://localhost:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_scores_of_a_model_behind_transformers_serve(tmp_path: Path, checkpoint: Path, url: str) -> None:
    rows = chain_store(tmp_path, prompts=2, samples=2)
    rubric = tmp_path / "short_v1.toml"  # the checkpoint has learned from short texts only
    rubric.write_text(SHORT)
    config = JudgeConfig(endpoint=url, model=str(checkpoint), rubric=str(rubric), max_tokens=12, concurrency=2)
    tally = run.judge(tmp_path, config)
    assert tally.statuses == {"ok": len(rows)}
    assert tally.prompt_tokens > 100 * len(rows), "as that server counts them"
    (name,) = store.judges(tmp_path)
    assert [row["score"] for row in store.score_rows(tmp_path, name)] == [4.0] * len(rows)
    assert run.judge(tmp_path, config).requests == 0
