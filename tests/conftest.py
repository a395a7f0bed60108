"""Every test runs on eight emulated CPU devices; set before anything imports jax."""

import os

import pytest

from tests.compiler import QUICK

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # nothing is kept in the home folder of who runs them
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
    os.environ["XLA_FLAGS"] = flags.strip()

# These share a model, a finished run and compiled programs (``training_fixtures``): one worker runs them all.
_TRAINING = tuple(f"tests/test_{name}.py" for name in ("resume", "processes", "reuse", "train", "replay", "evaluate"))
# Longest first: a long file that begins last leaves the other workers idle.
_LONGEST = (
    *_TRAINING, "tests/golden/test_trajectories.py", "tests/explore/test_exploring_run.py",
    "tests/docs/test_examples.py", "tests/exprl/test_runs.py", "tests/learn/test_update.py", "tests/test_pods.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {file: index for index, file in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """``--dist loadfile`` in the order of the collection, and ``_TRAINING`` like one file."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "training" if file in _TRAINING else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


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
