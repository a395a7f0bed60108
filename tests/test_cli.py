"""The command line: fast help, dry runs, errors without tracebacks, and what each verb calls."""

import contextlib
import json
import logging
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax import cli
from extra_jax.cli import sampling
from extra_jax.config import config_from_dict
from extra_jax.dry_run import describe
from extra_jax.dry_run_warnings import find_warnings
from extra_jax.errors import ExtraError
from extra_jax.reward.verdict import Grade, Verdict

TREE = {
    "run": {"dir": "runs/x"},
    "model": {"preset": "tiny"},
    "data": {"source": "countdown", "limit": 64},
    "eval": {"data": {"source": "countdown", "split": "test", "limit": 16}, "every": 4},
    "train": {
        "max_steps": 10,
        "prompts_per_step": 8,
        "num_generations": 4,
        "num_minibatches": 2,
        "row_length": 4096,
    },
}
VERBS = ("train", "sft", "eval", "sample", "rollout", "exprl", "import-hf", "export-hf", "plan")
RESULTS = {
    "evaluate": [
        {
            "sums": {
                "step": 3,
                "num_problems": 7,
                "num_generations": 1,
                "summary": {"pass@1": {"mean": 0.25, "low": 0.2, "high": 0.3}},
                "mean_length": 9.0,
                "clipped_ratio": 0.1,
                "verdicts": [["correct"], ["timeout"], ["wrong"], ["wrong"]],
            }
        }
    ],
    "sample": [
        types.SimpleNamespace(
            prompt=prompt, text=f"{prompt} {i}", tokens=7, mean_entropy=0.5, stop_reason="length", grade=None
        )
        for prompt in "ab"
        for i in range(3)
    ],
}
EXTRA = {"sample": ["--prompt", "hi"], "export-hf": ["--out", "o"], "plan": ["--topology", "v5e:4x4"]}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TREE))
    return str(path)


@pytest.fixture
def called(monkeypatch):
    """Replaces every module that a verb imports by one that records its calls."""
    calls = []
    for module, names in {
        "assemble": ["train"], "sft": ["sft"], "evaluate": ["evaluate"], "sample": ["sample"],
        "export": ["import_hf", "export_hf"], "plan.main": ["plan"], "replay": ["replay"],
        "exprl.collect": ["rollout"], "exprl.loop": ["exprl", "train_on_scores"],
    }.items():  # fmt: skip
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, lambda *args, name=name: calls.append((name, args)) or RESULTS.get(name))
        monkeypatch.setitem(sys.modules, f"extra_jax.{module}", fake)
    return calls


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_is_fast_and_imports_no_jax(arguments):
    program = (
        "import sys\nfrom extra_jax.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "heavy = {'jax', 'flax', 'numpy', 'pydantic', 'transformers', 'torch'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy with other tests
        began = time.perf_counter()
        done = run_python("-c", program, *arguments)
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 1.0


def test_a_dry_run_imports_no_jax(file):
    program = (
        "import sys\nfrom extra_jax.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "assert not {'jax', 'flax', 'torch', 'transformers'} & sys.modules.keys()"
    )
    done = run_python("-c", program, "train", file, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_traceback(file):
    command = [sys.executable, "-m", "extra_jax.cli", "train", file, "--dry-run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert error == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"example:\n  extra-jax {verb} configs/" in text
    assert "--dry-run" in text


@pytest.mark.parametrize("arguments", [["compare"], ["data"], ["data", "lint"], ["data", "contamination"]])
def test_verbs_without_a_configuration_have_help(arguments, capsys):
    assert cli.main([*arguments, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: extra-jax {' '.join(arguments)}" in text
    assert "--dry-run" not in text


def test_the_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in (*VERBS, "compare", "data"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_dry_run_that_runs_nothing(verb, file, called, capsys):
    assert cli.main([verb, file, "--dry-run", *EXTRA.get(verb, [])]) == 0
    assert called == []
    assert f"{verb}: the configuration is valid" in capsys.readouterr().out


def test_verbs_call_their_function_with_the_resolved_configuration(file, called):
    assert cli.main(["train", file, "train.max_steps=3"]) == 0
    assert cli.main(["sft", file, "sft.max_steps=4"]) == 0
    assert cli.main(["eval", file]) == 0
    assert cli.main(["sample", file, "--prompt", "a", "--prompt", "b", "--num-samples", "3"]) == 0
    assert cli.main(["import-hf", file]) == 0
    assert cli.main(["export-hf", "--out", "out", file]) == 0
    assert [name for name, _ in called] == ["train", "sft", "evaluate", "sample", "import_hf", "export_hf"]
    assert called[0][1][0].train.max_steps == 3
    assert called[1][1][0].sft.max_steps == 4
    assert called[3][1][1:] == (["a", "b"], 3, False)
    assert called[5][1][1] == "out"


@pytest.mark.parametrize("status", [0, 1])
def test_verbs_that_judge_return_what_they_found(file, called, monkeypatch, status):
    monkeypatch.setitem(RESULTS, "plan", status)
    monkeypatch.setitem(RESULTS, "replay", status)
    assert cli.main(["plan", file, "--topology", "v5e:4x4", "--slices", "2", "--search", "train.max_steps=3"]) == status
    assert cli.main(["replay", "step.npz", "--advantages-only"]) == status
    (_, (config, *rest)), replayed = called
    assert config.train.max_steps == 3
    assert rest == ["v5e:4x4", 2, True, False]
    assert replayed == ("replay", ("step.npz", True))


def test_reward_judge_trains_on_stored_scores(file, called):
    assert cli.main(["train", file, "reward=judge"]) == 0
    assert cli.main(["exprl", file]) == 0
    assert cli.main(["rollout", file, "out=store"]) == 0
    assert [name for name, _ in called] == ["train_on_scores", "exprl", "rollout"]
    assert called[2][1][0].exprl.store == "store"


def test_eval_prints_its_result_on_standard_output(file, called, capsys):
    cli.main(["eval", file])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["step", "3", "sums"],
        ["pass@1", "(avg@1)", "0.250", "[0.200,", "0.300]"],
        ["problems", "7", "x", "1", "samples"],
        ["length", "9", "tokens"],
        ["truncated", "10.0%"],
        ["not", "judged,", "counted", "as", "not", "solved", "25.0%"],
    ]


def test_sample_prints_prompts_and_completions(file, called, capsys):
    cli.main(["sample", file, "--prompt", "a", "--prompt", "b", "--num-samples", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["=== prompt 1", "a", "--- sample 1: 7 tokens, length, mean entropy 0.500 nats", "a 0"]
    assert lines[8:10] == ["=== prompt 2", "b"]


def test_sample_prints_rewards_by_function_when_asked_to(file, called, capsys, monkeypatch, tmp_path):
    grade = Grade(Verdict.WRONG, "3", "math/2", "not worked out")
    completion = types.SimpleNamespace(
        **vars(RESULTS["sample"][0]) | {"rewards": {"math": -1.0, "brief": np.nan}, "reward": -1.0, "grade": grade}
    )
    monkeypatch.setitem(RESULTS, "sample", [completion])
    (tmp_path / "p.jsonl").write_text('{"id": "p", "problem": "2+2?", "answer": "4"}\n')
    cli.main(["sample", file, "--grade", "--file", str(tmp_path / "p.jsonl")])
    assert capsys.readouterr().out.splitlines()[-1] == "... wrong (not worked out); reward -1: math -1, brief none"
    ((_, (_, prompts, _, graded)),) = called
    assert (prompts[0].answer, graded) == ("4", True), "rows are problems, with what they are graded against"
    cli.main(["sample", file, "--grade"])
    assert called[-1][1][1:] == ([], 1, True), "the verb takes problems of data"


def test_overrides_may_stand_on_both_sides_of_an_option(file, called):
    cli.main(["sample", file, "run.seed=1", "--prompt", "x", "rollout.top_k=5", "run.seed=2"])
    config = called[0][1][0]
    assert (config.run.seed, config.rollout.top_k) == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.maxsteps=3"], "did you mean 'train.max_steps'?"),
        (["train.max_steps"], "not of the form key.sub=value"),
        (["--dry-run", "data.source=/missing.jsonl", "data.limit=null"], "/missing.jsonl: there is no such file"),
        (["--dry-run", "model.preset=null", "model.path=/missing"], "model.path=/missing: /missing is not a folder"),
        (["--dry-run", "tokenizer.path=/missing"], "tokenizer.path=/missing: there is no such folder"),
        (["--dry-run", "model.preset=9000B"], "9000B"),
        (["--dry-run", "data.limit=null"], "limit"),
    ],
)
def test_an_error_of_the_user_is_a_message_and_status_2(file, called, capsys, arguments, message):
    assert cli.main(["train", file, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("extra-jax train: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        ([], "VERB"),
        (["train"], "CONFIG.yaml"),
        (["train", "c.yaml", "--dry-rn"], "unknown option --dry-rn"),
        (["export-hf", "c.yaml"], "--out"),
        (["sample", "c.yaml", "--num-samples", "0"], "whole number of at least 1"),
    ],
)
def test_a_wrong_command_line_is_explained(capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_prompts_from_a_file(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("one\n\ntwo\n")
    assert sampling.read_prompts(["zero"], str(text)) == ["zero", "one", "two"]
    chat = [{"role": "user", "content": "hi"}]
    rows = tmp_path / "prompts.jsonl"
    rows.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": chat}) + "\n")
    assert sampling.read_prompts([], str(rows)) == ["a", tuple(chat)]


@pytest.mark.parametrize("row", ['{"text": "a"}', "[1]", "no json", '{"prompt": 3}', '{"prompt": [{"role": "user"}]}'])
def test_a_bad_prompt_row_is_numbered(tmp_path, row):
    rows = tmp_path / "prompts.jsonl"
    rows.write_text('{"prompt": "a"}\n' + row + "\n")
    with pytest.raises(ExtraError, match=r"prompts\.jsonl, row 2"):
        sampling.read_prompts([], str(rows))


def test_no_prompt_is_explained():
    with pytest.raises(ExtraError, match="give --prompt TEXT"):
        sampling.read_prompts([], None)
    with pytest.raises(ExtraError, match="no such file"):
        sampling.read_prompts([], "/missing.txt")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_prompts_of_a_file_end_at_line_ends_only(tmp_path, suffix):
    path, text = tmp_path / f"prompts{suffix}", "Add 1\u2028and\x852"
    line = text if suffix == ".txt" else json.dumps({"prompt": text}, ensure_ascii=False)
    path.write_bytes(f"\ufeff{line}\r\n\n{line}".encode())
    assert sampling.read_prompts([], str(path)) == [text, text]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(content=st.one_of(st.binary(), st.text().map(lambda text: json.dumps({"prompt": text}).encode())))
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_any_file_of_prompts_is_read_or_refused(tmp_path_factory, suffix, content):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(ExtraError):
        assert all(isinstance(prompt, str | tuple) for prompt in sampling.read_prompts([], str(path)))


def test_more_completions_than_memory_holds_are_refused(file, capsys):
    assert cli.main(["sample", file, "--prompt", "hi", "--num-samples", "100000000000"]) == 2
    assert "are more than 100,000 completions" in capsys.readouterr().err


def test_a_dry_run_finds_what_would_stop_the_run(file, tmp_path, chat_tokenizer, monkeypatch, capsys):
    def refused(verb, *overrides):
        assert cli.main([verb, file, "--dry-run", *overrides]) == 2
        return capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "'wandb', which cannot be imported" in refused("train", "logging.trackers=[wandb]")
    assert "64 of 64 prompts are longer than rollout.max_prompt_length=2" in refused(
        "train", "rollout.max_prompt_length=2", "eval={}"
    )
    assert "has no solution; SFT needs one" in refused("sft", f"data={bare_problems(tmp_path)}", "eval={}")
    solved = tmp_path / "solved.jsonl"
    solved.write_text('{"prompt": "1+1", "answer": "2", "solution": "2"}\n')
    sft = ["sft", file, "--dry-run", f"data={{source: {solved}}}", f"eval.data={bare_problems(tmp_path)}"]
    assert cli.main(sft) == 0, "held-out problems need no solution"
    (tmp_path / "afile").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for folder in ("afile", "afile/run", "loop"):
        assert "is no folder, or not one that you may write into" in refused("train", f"run.dir={tmp_path / folder}")
    big = ["model.preset=0.6B", f"tokenizer.path={chat_tokenizer}", "rollout.max_prompt_length=999", "eval={}"]
    asks = {"prompt": "What is 1+1? The last line should be of the form Answer: $Answer.", "answer": "2"}
    assert r"reads \boxed{}: let the prompts ask for it" in refused(
        "train", f"data={bare_problems(tmp_path, asks)}", *big
    )
    prose = {"prompt": "What is 1+1?", "answer": r"\frac{1}{"}
    assert "data lint FILE` lists all of them" in refused("train", f"data={bare_problems(tmp_path, prose)}", *big)
    good = bare_problems(tmp_path)
    assert cli.main(["train", file, "--dry-run", f"data={good}", *big]) == 0
    assert "a right answer is rewarded in 3 of 3 problems tried" in capsys.readouterr().out


def bare_problems(folder, *rows):
    """The source of a file of three problems without solutions, or of these."""
    path = folder / "problems.jsonl"
    rows = rows or [{"prompt": f"{i}+1", "answer": str(i + 1)} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{{source: {path}}}"


def described(verb="train", **sections):
    return describe(config_from_dict({**TREE, **sections}), verb)


def test_the_batch_arithmetic_is_in_prompts_and_completions():
    text = described()
    for line in (
        "8 prompts x 4 generations = 32 completions",
        "2 mini-batches of 16 completions = 2 optimizer updates",
        "16 completions packed into at most 8 rows of 4,096 tokens; 1 row a shard per forward and backward",
        "10 steps, 20 optimizer updates, 320 completions, 1.25 epochs over the problems",
        "64 problems of countdown",
        "at most 32,768 completion tokens a step",
        "16 problems of countdown (test) x 8 samples = 128 completions",
        "every 4 steps and at the end, 4 times: 512 completions in all",
        "countdown, correct by countdown",
        "data 1 x fsdp (all remaining devices) x tensor 1",
        "random weights of preset tiny",
    ):
        assert line in text, line
    assert text.count("warning:") == 1, "of the lengths, which are those of a real model"
    assert "exceeds the 1,024 positions of the model" in text


def test_several_passes_multiply_the_updates():
    text = described(train=TREE["train"] | {"num_iterations": 3})
    assert "2 mini-batches of 16 completions x 3 passes = 6 optimizer updates" in text


def test_sft_counts_examples():
    text = described("sft", sft={"max_steps": 4, "batch_size": 32, "row_length": 128})
    assert "32 examples = 1 optimizer update" in text
    assert "4 steps, 128 examples, 2.00 epochs over the problems" in text


def test_eval_needs_problems():
    with pytest.raises(ExtraError, match="give bench=aime24,math500, or set eval"):
        described("eval", eval={})
    assert "none (eval.data is not set)" in described(eval={})


def test_hub_data_are_not_downloaded(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # as if `datasets` were installed
    text = described(data={"source": "hub:org/name"})
    assert "hub:org/name (split train; not downloaded in a dry run)" in text
    assert "epochs" not in text


def test_chat_prompts_are_described_and_found_again_in_the_held_out_problems(file, tmp_path, chat_tokenizer, capsys):
    def write(name, *questions):
        rows = [{"prompt": [{"role": "user", "content": text}], "answer": "2"} for text in questions]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"{{source: {path}}}"

    problems, held_out = write("train.jsonl", "1 + 1?", "3 - 1?"), write("test.jsonl", "3 - 1?", "4 - 2?", "2 * 1?")
    model = ["model.preset=0.6B", f"tokenizer.path={chat_tokenizer}", "rollout.max_prompt_length=64"]
    assert cli.main(["train", file, f"data={problems}", f"eval.data={held_out}", *model, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 problems of" in text
    assert "1 of 3 held-out problems of test are also training problems" in text


def test_a_model_folder_needs_weights_and_shows_its_size(tmp_path):
    from extra_jax.model.config import preset

    with pytest.raises(ExtraError, match=r"no \*\.safetensors"):
        described(model={"path": str(tmp_path)})
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps(preset("0.6B").to_hf()))
    assert "596.0 M parameters" in described(model={"path": str(tmp_path)}, tokenizer={"path": "tiny"})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rollout": {"temperature": 0}}, "every advantage is 0"),
        ({"rollout": {"top_p": 0.9}}, "cut the distribution"),
        ({"rollout": {"max_completion_length": 40_960}, "train": {}}, "exceeds the 1,024 positions of the model"),
        ({"train": {"epsilon": 0.2, "epsilon_high": 0.1}}, "train.epsilon_high=0.1 is below"),
        ({"train": {"delta": 2.0}}, "train.delta has no effect"),
        ({"reward": {"functions": [{"function": "auto", "args": {"values": {"correct": 0.0}}}]}}, "same reward"),
        ({"optim": {"warmup_steps": 100}}, "not shorter than the run"),
        ({"checkpoint": {"every": 101}, "train": {"max_steps": 100}}, "the only checkpoint"),
        ({"eval": {"data": TREE["data"]}}, "16 of 16 held-out"),
        ({"eval": {"data": TREE["eval"]["data"], "temperature": 0}}, "samples of a problem are equal"),
    ],
)
def test_suspicious_settings_are_warned_about(sections, message):
    text = described(**sections)
    expected = (
        "64 of 64 held-out problems of countdown are also training problems" if "held-out" in message else message
    )
    assert any(expected in line for line in text.splitlines() if line.startswith("warning: "))


def test_the_defaults_of_the_recipe_give_no_warning():
    assert find_warnings(config_from_dict(TREE), "train") == []


def test_what_the_package_logs_is_shown_once(monkeypatch, file, capsys):
    """In each of two runs, also where a library has given the root logger a handler; the logger is left as it was."""

    def train(config):
        logging.getLogger("extra_jax.rollout.programs").info("compiling decode: %d slots", 8)
        logging.getLogger("another").info("not ours")

    monkeypatch.setattr("extra_jax.assemble.train", train)
    log, other = logging.getLogger("extra_jax"), logging.StreamHandler(sys.stderr)
    before = log.level, log.propagate, list(log.handlers)
    log.info("nobody listens yet")
    logging.getLogger().addHandler(other)
    try:
        for _ in range(2):
            assert cli.main(["train", str(file)]) == 0
            assert capsys.readouterr().err == "extra-jax: compiling decode: 8 slots\n"
    finally:
        logging.getLogger().removeHandler(other)
    assert (log.level, log.propagate, log.handlers) == before
