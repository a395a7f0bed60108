"""The configuration tree: frozen, strict, and errors that name the file, the key and the nearest one."""

import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.config import Config, config_differences, config_from_dict, load_config, save_config
from extra_jax.errors import ExtraError
from extra_jax.reward.verdict import Verdict

MINIMAL = {"model": {"preset": "tiny"}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"train": {"max_steps": 7}}))
    return path


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.maxsteps=3", "train.maxsteps: unknown key; did you mean 'train.max_steps'?"),
        ("trian.max_steps=3", "trian: unknown key; did you mean 'train'?"),
        ("train.num_generation=4", "did you mean 'train.num_generations'?"),
        ("optim.lr=1", "optim.lr: unknown key; this is 'optim.learning_rate' here, see docs/howto/from-trl-verl.md"),
        ("optim.momentum=1", "optim.momentum: unknown key; known keys here: learning_rate, "),
        ("train.learning_rate=3", "train.learning_rate: unknown key; did you mean 'optim.learning_rate'?"),
        ("eval.data.sorce=chain", "eval.data.sorce: unknown key; did you mean 'eval.data.source'?"),
    ],
)
def test_an_unknown_key_names_the_nearest_and_the_file(file, override, expected):
    with pytest.raises(ExtraError) as error:
        load_config(file, [override])
    assert str(file) in str(error.value)
    assert expected in str(error.value)


def test_every_wrong_key_is_reported_at_once(file):
    with pytest.raises(ExtraError) as error:
        load_config(file, ["train.maxsteps=3", "optim.learning_rte=1", "run.seed=x"])
    text = str(error.value)
    assert all(key in text for key in ("train.maxsteps", "optim.learning_rte", "run.seed"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_steps", "not of the form key.sub=value"),
        ("=3", "not of the form key.sub=value"),
        ("train.max_steps.deep=3", "'max_steps' is a value, not a section"),
        ("train.max_steps=[1", ": not valid YAML"),
        ("train.max_steps=many", r"train.max_steps: .*integer.*\(got 'many'\)"),
        ("train.num_generations=1", "greater than or equal to 2"),
        ("train.loss_type=ppo", "'grpo', 'dr_grpo', 'dapo', 'bnpo' or 'cispo'"),
        ("model.path=here", "exactly one of model.path .* and model.preset"),
        ("train.num_minibatches=3", "does not divide into num_minibatches=3"),
        ("train.row_length=100", "train.row_length=100 is shorter than"),
        ("logging.trackers=[mlflow]", "tensorboard"),
    ],
)
def test_a_bad_override_says_what_is_wrong(file, override, message):
    with pytest.raises(ExtraError, match=message):
        load_config(file, [override])


def test_overrides_apply_in_order_and_make_sections(file):
    config = load_config(file, ["train.max_steps=9", "train.max_steps=11", "eval.data.source=chain", "eval.every=5"])
    assert config.train.max_steps == 11
    assert config.eval.data.source == "chain"
    assert config.eval.every == 5


def test_an_exponent_without_a_point_is_a_number(file):
    # YAML 1.1 reads 1e-6 as text; people write it all the time.
    assert load_config(file, ["optim.learning_rate=1e-6"]).optim.learning_rate == 1e-6


def test_an_override_can_clear_a_value(file):
    assert load_config(file, ["train.epsilon_high=null"]).train.epsilon_high is None


def test_files_that_are_not_a_configuration(tmp_path):
    with pytest.raises(ExtraError, match="there is no such file"):
        load_config(tmp_path / "missing.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("train: [1,\n")
    with pytest.raises(ExtraError, match=r"bad\.yaml: not valid YAML"):
        load_config(bad)
    bad.write_text("- 1\n")
    with pytest.raises(ExtraError, match=r"bad\.yaml: the top level must be a mapping"):
        load_config(bad)
    bad.write_text("")
    with pytest.raises(ExtraError, match=r"bad\.yaml:\n  model: Field required"):
        load_config(bad)


def test_the_tree_is_frozen(file):
    config = load_config(file)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.train.max_steps = 3
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.train = None


@given(
    st.integers(1, 10_000), st.sampled_from([1, 2, 4]), st.sampled_from(["grpo", "dr_grpo", "dapo", "bnpo"]),
    st.dictionaries(st.sampled_from([str(v) for v in Verdict]), st.floats(-2, 2), max_size=3),
    st.one_of(st.none(), st.sampled_from(["chain", "a.jsonl"])),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_what_is_saved_is_read_back_equal(tmp_path_factory, steps, minibatches, loss, values, source):
    tree = MINIMAL | {
        "train": {"max_steps": steps, "num_minibatches": minibatches, "loss_type": loss},
        "reward": {"functions": [{"function": "math", "args": {"values": dict(values)}}, "overlong.py:f"]},
        "eval": {"data": None if source is None else {"source": source}},
        "logging": {"trackers": ["tensorboard"]},
    }
    config = config_from_dict(tree)
    path = tmp_path_factory.mktemp("round") / "config.yaml"
    save_config(config, path)
    assert load_config(path) == config
    assert config_differences(load_config(path), config) == []


def test_differences_are_listed_by_key():
    old = config_from_dict(MINIMAL)
    new = config_from_dict(
        {
            "model": {"preset": "0.6B"},
            "train": {"max_steps": 7},
            "run": {"dir": "x"},
            "eval": {"data": {"source": "chain"}},
        }
    )
    lines = config_differences(old, new, ignore=["run.dir"])
    assert 'model.preset: "tiny" -> "0.6B"' in lines
    assert "train.max_steps: 100 -> 7" in lines
    assert not any(line.startswith("run.dir") for line in lines)
    assert any(line.startswith("eval.data") for line in lines)
    assert config_differences(old, new, ignore=["run", "model", "train", "eval"]) == []


def test_an_ignored_prefix_is_a_whole_key():
    old, new = config_from_dict(MINIMAL), config_from_dict(MINIMAL | {"run": {"dir": "x"}})
    assert config_differences(old, new, ignore=["ru", "run.di"]) == ['run.dir: "runs/default" -> "x"']


def test_reward_functions_have_short_forms():
    config = config_from_dict(MINIMAL | {"reward": {"functions": ["math", {"function": "f.py:g"}], "correct": "math"}})
    assert [entry.function for entry in config.reward.functions] == ["math", "f.py:g"]
    assert config.reward.correct.function == "math"
    assert config_from_dict(MINIMAL | {"reward": {"functions": "math"}}).reward.functions[0].weight == 1.0


@pytest.mark.parametrize("key", ["grader", "values", "exclude", "soft_punish_cache"])
def test_an_old_reward_key_is_answered_with_the_new_form(key):
    with pytest.raises(ExtraError, match=rf"{key}: .* is now functions: \["):
        config_from_dict(MINIMAL | {"reward": {key: 1}})


def test_batch_arithmetic():
    train = config_from_dict(
        MINIMAL | {"train": {"prompts_per_step": 32, "num_generations": 8, "num_minibatches": 4, "num_iterations": 2}}
    ).train
    assert (train.completions_per_step, train.minibatch_size, train.updates_per_step) == (256, 64, 8)


def test_the_defaults_are_a_valid_configuration():
    assert isinstance(config_from_dict(MINIMAL), Config)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/math500.jsonl", "math500"),
        ("hub:org/name", "org_name"),
        ("a/.hidden.parquet", "hidden"),
        ("x/../y.jsonl", "y"),
        ("reasoning_gym:leg counting", "reasoning_gym_leg_counting"),
    ],
)
def test_the_name_of_a_benchmark_can_be_a_folder(source, name):
    assert list(config_from_dict({"model": {"preset": "tiny"}, "eval": {"data": {"source": source}}}).benchmarks) == [
        name
    ]


@pytest.mark.parametrize("source", ["...jsonl", "..", "___.parquet"])
def test_a_source_without_a_name_is_refused_as_a_benchmark(source):
    with pytest.raises(ExtraError, match="has no name for a benchmark; give one with eval"):
        _ = config_from_dict({"model": {"preset": "tiny"}, "eval": {"data": {"source": source}}}).benchmarks


def test_a_budget_that_an_earlier_version_wrote_down_is_left_out_and_a_real_one_is_named_as_gone():
    tree = {"model": {"preset": "tiny"}, "data": {"source": "chain"}}
    read = config_from_dict(tree | {"plan": {"max_step_seconds": None}})
    assert "max_step_seconds" not in read.plan.model_dump()
    with pytest.raises(ExtraError, match="max_step_seconds is gone"):
        config_from_dict(tree | {"plan": {"max_step_seconds": 60}})
