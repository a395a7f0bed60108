"""Every value of the configuration is of its type and within a range, and YAML can do no harm."""

import os
import stat
from collections.abc import Iterator
from typing import Any, get_args

import annotated_types
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from extra_jax.config import Config, config_from_dict, load_config, save_config
from extra_jax.config.yaml_tree import dump_yaml, parse_yaml
from extra_jax.errors import ExtraError

MODEL = "model: {preset: tiny}\n"


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        sections = [kind for kind in kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if sections:
            yield from leaves(sections[0], (*path, name))
        else:
            yield (*path, name), field


def kinds(annotation: Any) -> list[Any]:
    """What an annotation is made of: ``int | None`` -> int, None; tables and tuples are not opened."""
    if getattr(annotation, "__origin__", None) in (tuple, dict):
        return [annotation]
    inner = get_args(annotation)
    return [kind for part in inner for kind in kinds(part)] if inner else [annotation]


LEAVES = {".".join(path): field for path, field in leaves(Config)}
NUMBERS = sorted(key for key, field in LEAVES.items() if {int, float} & set(kinds(field.annotation)))
OTHERS = sorted(
    key
    for key, field in LEAVES.items()
    if key not in NUMBERS
    and not any(kind is Any or getattr(kind, "__origin__", 0) is dict for kind in kinds(field.annotation))
)


def refused(key: str, value: Any) -> str:
    tree: Any = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    tree = {"model": {"preset": "tiny"}, **tree} if not key.startswith("model.") else tree
    with pytest.raises(ExtraError) as error:
        config_from_dict(tree)
    return str(error.value)


def test_the_walk_sees_every_kind_of_leaf():
    assert len(NUMBERS) > 70
    assert {"optim.adam_beta1", "train.row_length", "eval.data.limit", "mesh.fsdp", "reward.correct.threshold"} <= set(
        NUMBERS
    )
    assert {"run.dir", "train.dump_steps", "train.use_bias_correction_kl", "rollout.stop_strings"} <= set(OTHERS)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_a_finite_number_in_its_range(key):
    for value in (
        float("nan"),
        float("inf"),
        -float("inf"),
        True,
        False,
        "1",
        "many",
        [1],
        2**53 + 2,
        -(2**53) - 2,
        10**400,
    ):
        assert key in refused(key, value), value


@pytest.mark.parametrize("key", [key for key in NUMBERS if key.split(".")[0] not in ("judge", "exprl")])
def test_a_number_says_its_range_itself(key):
    field = LEAVES[key]
    metadata = [*field.metadata, *(m for kind in get_args(field.annotation) for m in getattr(kind, "__metadata__", ()))]
    bounds = [bound for item in metadata for bound in (getattr(item, "metadata", None) or [item])]
    low = [bound for bound in bounds if isinstance(bound, annotated_types.Ge | annotated_types.Gt)]
    high = [bound for bound in bounds if isinstance(bound, annotated_types.Le | annotated_types.Lt)]
    assert low, f"{key} has no lower bound"
    assert high, f"{key} has no upper bound"
    beyond = [bound.ge - 1 if isinstance(bound, annotated_types.Ge) else bound.gt for bound in low]
    beyond += [bound.le + 1 if isinstance(bound, annotated_types.Le) else bound.lt for bound in high]
    for value in beyond:
        assert key in refused(key, value), value


@pytest.mark.parametrize("key", OTHERS)
def test_another_value_is_of_its_type(key):
    for value in (float("nan"), 3, -0.5, "", ["", 3], {"a": 1}, "half \ud800", "zero \0 byte"):
        assert key.split(".")[0] in refused(key, value), value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judge: {extra_body: &a {x: *a}}", "does an anchor contain itself"),
        ("judge: {extra_body: {a: &a [*a]}}", "does an anchor contain itself"),
        (
            "judge:\n  extra_body:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
            "more than 100,000 values",
        ),
        ("judge: {extra_body: {a: " + "[" * 20_000 + "]" * 20_000 + "}}", "nested too deep"),
        ("judge: {extra_body: {a: " + "[" * 200 + "]" * 200 + "}}", "nested more than 64 deep"),
        ("train: {max_steps: 3, max_steps: 9}", "'max_steps' stands twice"),
        ("train: {max_steps: 3}\ntrain: {num_generations: 4}", "'train' stands twice"),
        ("run: {dir: 2026-11-31}", "not valid YAML"),
        ("run: {dir: 2026-11-30}", "is a date; put text in quotes"),
        ("run: {seed: " + "9" * 5000 + "}", "not valid YAML"),
        ("run: {seed: " + "9" * 400 + "}", "run.seed: a number beyond"),
        ("1: 2", "the key 1 is no text"),
        ("judge: {extra_body: {a: .inf}}", "judge.extra_body.a: inf is not a finite number"),
        ("reward: {functions: [{function: math, args: {values: {wrong: 1.0e+308}}}]}", "a number beyond"),
        ("judge: {extra_body: {a: !!binary aGk=}}", "bytes is no value"),
        ("judge: {extra_body: !!python/object/apply:os.getcwd []}", "not valid YAML"),
        ("mesh: {data: 0}", "a size is at least 1"),
        ("mesh: {data: -1, fsdp: -1}", "at most one is -1"),
        ("train: {prompts_per_step: 60000, num_generations: 64}", "completions in a step"),
        ("rollout: {stop_strings: ['']}", "at least 1 character"),
        ("train: {dump_steps: [0, -4]}", "train.dump_steps.0"),
    ],
)  # fmt: skip
def test_a_file_that_would_do_harm_is_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(MODEL + text)
    with pytest.raises(ExtraError) as error:
        load_config(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_a_configuration_that_is_no_file_is_refused(tmp_path, make):
    path = tmp_path / "c.yaml"
    make(path)
    with pytest.raises(ExtraError, match=r"c\.yaml"):
        load_config(path)


def test_a_merge_key_and_an_alias_are_legal(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(MODEL + "train: &t {max_steps: 3, row_length: 4096}\nsft: {<<: *t, max_steps: 4}\n")
    config = load_config(path)
    assert (config.sft.max_steps, config.sft.row_length) == (4, 4096)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_configuration_or_a_named_error(text):
    try:
        tree = parse_yaml(text, "c.yaml")
        config_from_dict(tree if isinstance(tree, dict) else {"model": tree})
    except ExtraError:
        pass


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["1e5", "-2E+3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.sampled_from([*LEAVES, *Config.model_fields, "explore.bonus.novelty", "eval.benchmarks.a"]), VALUES)
def test_any_value_of_any_key_is_taken_or_a_named_error(key, value):
    tree = {"model": {"preset": "tiny"}}
    *sections, leaf = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
    node[leaf] = value
    try:
        config = config_from_dict(tree)
    except ExtraError:
        return
    assert config_from_dict(parse_yaml(dump_yaml(config.model_dump(mode="json")), "again")) == config


@pytest.mark.parametrize("text", ["1e5", "-2E+3", "1_0e1", "12e5"])
def test_text_that_looks_like_a_number_is_read_back_as_text(text):
    assert parse_yaml(dump_yaml({"dir": text}), "c.yaml") == {"dir": text}
    assert yaml.safe_load(dump_yaml({"lr": 1e-6})) == {"lr": 1e-6}


def test_a_saved_configuration_with_a_secret_is_private(tmp_path):
    os.umask(mask := os.umask(0o022))
    for name, kwargs, mode in (("plain", {"n": 1}, 0o666 & ~mask), ("secret", {"api_key": "abcdefgh"}, 0o600)):
        path = tmp_path / name
        config = config_from_dict({"model": {"preset": "tiny"}, "tokenizer": {"chat_template_kwargs": kwargs}})
        save_config(config, path)
        save_config(config, path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert load_config(path) == config


def test_an_error_shows_no_secret():
    with pytest.raises(ExtraError) as error:
        config_from_dict({"model": {"preset": "tiny"}, "judge": {"endpoint": "ftp://me:hunter2hunter2@host"}})
    assert "hunter2" not in str(error.value)
