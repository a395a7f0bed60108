"""``import extra_jax``: what it exports, what it costs, and that the pages name only what is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import extra_jax as ex
import extra_jax.train
from extra_jax.api import History
from extra_jax.errors import ExtraError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "docs/examples").glob("*.py"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_names_only_what_is_exported(page: Path) -> None:
    assert {name for name in re.findall(r"\bex\.(\w+)", page.read_text()) if name not in ex.__all__} == set()


def test_the_import_brings_nothing_heavy() -> None:
    program = (
        "import sys, extra_jax as ex\nassert ex.__all__ == dir(ex)\n"
        "heavy = {'jax', 'flax', 'numpy', 'pydantic', 'transformers', 'torch'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_is_the_function_although_a_file_has_its_name() -> None:
    assert callable(ex.train)
    assert ex.train is not sys.modules["extra_jax.train"]
    assert all(getattr(ex, name) is not None for name in ex.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'; it has"):
        ex.trian  # noqa: B018


def test_what_is_no_model_is_refused_with_what_there_is() -> None:
    with pytest.raises(ExtraError, match=r"Qwen3-0.6B: neither a Hugging Face folder nor a run .* 0.6B"):
        ex.load("Qwen3-0.6B")


def test_a_history_has_an_array_for_each_number_and_the_steps_that_have_it() -> None:
    history = History(
        [{"step": 0, "eval": 0.5}, {"step": 1, "loss": 2.0, "note": "x"}, {"step": 2, "loss": 1.0, "eval": 1}]
    )
    assert list(history) == ["eval", "loss"]
    assert history["loss"].tolist() == [2.0, 1.0]
    assert history.steps("eval").tolist() == [0, 2]
    with pytest.raises(KeyError, match="there are eval, loss"):
        history["lost"]


def test_what_would_have_no_effect_is_refused() -> None:
    """Judge scores have their own loop, and dynamic sampling would drop the groups that exploration works on."""
    tiny = {"model": {"preset": "tiny"}}
    with pytest.raises(ExtraError, match="judge scores makes no use of problems and explore"):
        ex.train({**tiny, "reward": "judge"}, problems=[], explore=[ex.explore.correct_only()])
    with pytest.raises(ExtraError, match="max_num_gen_batches=3 throws away"):
        ex.train({**tiny, "train": {"max_num_gen_batches": 3}}, explore=[ex.explore.correct_only()])


def test_a_row_in_python_is_read_as_a_row_of_a_file() -> None:
    with pytest.raises(ExtraError, match=r"problems, row 2, key 'problem': missing"):
        ex.train({"model": {"preset": "tiny"}}, problems=[{"prompt": "1+1?", "answer": "2"}, {"answer": "3"}])


def test_a_second_call_of_generate_compiles_nothing_and_a_seed_gives_other_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = ex.load("tiny-base", model={"dtype": "float32"}, rollout={"dtype": "float32"})
    with caplog.at_level("DEBUG", logger="extra_jax"):
        texts = [policy.generate("3 4 6 = 24\n", n=4, max_completion_length=16, seed=seed).texts for seed in (0, 0, 1)]
        compiled = [record.getMessage() for record in caplog.records]
    assert texts[0] == texts[1] != texts[2]
    assert len(compiled) == len(set(compiled)) > 0
