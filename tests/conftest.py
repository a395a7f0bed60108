"""Every test runs on eight emulated CPU devices; set before anything imports jax."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # nothing is kept in the home folder of who runs them
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    # Nearly all the time of the suite is compilation; unoptimised machine code of the same programs halves it.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


@pytest.fixture(scope="session")
def chat_tokenizer(tmp_path_factory):
    """The folder of a tokenizer that writes any text, with a chat template that knows ``enable_thinking``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core = Tokenizer(models.BPE({text: i for i, text in enumerate(sorted(alphabet))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}{% if enable_thinking %}<think>{% endif %}"
    )
    folder = tmp_path_factory.mktemp("chat_tokenizer")
    tokenizer.save_pretrained(folder)
    return str(folder)
