"""The section ``explore``: presets, what wins over them, and what is refused."""

from pathlib import Path

import pytest

from explore.steps import CHARACTERS, PROBLEMS, config_with
from extra_jax.config import config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.exploration import Exploration
from extra_jax.explore import PromptPolicy, Transform, novelty, prefixes
from extra_jax.explore.build import configured, make_exploration, needs_hidden_states
from extra_jax.explore.encoders import EncoderSettings

NGRAMS = {"name": "hashed_ngram", "size": 32}
OWN = """
import numpy as np
from extra_jax.explore import Transform, stateless

def shorter(weight: float = 0.1) -> Transform:
    def update(step, values, state):
        return values - weight * step.lengths, state, {}
    return stateless(update)

def number(weight):
    return weight
"""


def explored(explore: dict, parts: list | None = None, **train: int) -> Exploration:
    config = config_with(explore, **train)
    prompts = {uid: CHARACTERS.encode(problem.prompt) for uid, problem in PROBLEMS.items()}
    return make_exploration(config, list(PROBLEMS.values()), prompts, CHARACTERS, parts)


def test_exploration_is_off_unless_asked_for():
    explore = config_from_dict({"model": {"preset": "tiny"}}).explore
    assert (explore.preset, explore.bonus, explore.prompts, explore.active) == ("grpo", {}, {}, False)
    assert type(explored({})) is Exploration


def test_the_recommended_preset_is_the_defaults_of_the_functions():
    explore = config_with({"preset": "corrected"}).explore
    assert (explore.bonus, explore.prompts) == ({"novelty": {}}, {"prefixes": {}})
    assert explore.active


def test_what_is_written_out_wins_over_the_preset():
    chosen = {"encoder": {"size": 8}, "bonus": {"novelty": {"alpha": 0.3}}, "prompts": {"prefixes": None}}
    explore = config_with({"preset": "release_faithful", **chosen}).explore
    assert explore.encoder == {"long_text": "truncate", "size": 8}
    assert (explore.bonus["novelty"]["alpha"], explore.bonus["novelty"]["scaling"]) == (0.3, "raw")
    assert explore.prompts == {"prefixes": None}, "null takes one out"
    assert [type(part) for part in configured(config_with({"preset": "corrected", **chosen}))] == [Transform]


def test_an_override_of_the_command_line_wins_too(tmp_path: Path):
    from extra_jax.config import load_config

    file = tmp_path / "run.yaml"
    file.write_text("model: {preset: tiny}\nexplore: {preset: corrected}\n")
    explore = load_config(file, ["explore.bonus.novelty.alpha=0.25", "explore.prompts.prefixes=null"]).explore
    assert (explore.bonus, explore.prompts) == ({"novelty": {"alpha": 0.25}}, {"prefixes": None})


@pytest.mark.parametrize("preset", ["grpo", "corrected", "release_faithful"])
def test_every_preset_is_valid_and_read_back_unchanged(preset):
    config = config_with({"preset": preset})
    assert config_from_dict(config.model_dump(mode="json")) == config
    parts = configured(config)
    assert [type(part) for part in parts] == ([] if preset == "grpo" else [Transform, PromptPolicy])


def test_a_preset_without_one_of_its_parts_is_read_back_without_it():
    config = config_with({"preset": "corrected", "prompts": {"prefixes": None}})
    assert config_from_dict(config.model_dump(mode="json")) == config
    assert len(configured(config)) == 1
    everything = {"bonus": {"novelty": None}, "prompts": {"prefixes": None}}
    assert not config_with({"preset": "corrected", **everything}).explore.active


def test_a_run_knows_its_sizes():
    run = explored({"preset": "corrected", "encoder": NGRAMS}, num_generations=6, prompts_per_step=64, max_steps=7).run
    assert (run.group_size, run.prompts_per_step, run.max_steps, run.seed) == (6, 64, 7, 0)
    assert run.encoder == EncoderSettings(**NGRAMS)
    assert run.problems == PROBLEMS


def test_parts_given_in_python_are_used_in_place_of_those_of_the_configuration():
    assert type(explored({"preset": "corrected", "encoder": NGRAMS}, [])) is Exploration
    state = explored({"encoder": NGRAMS}, [novelty(0.2), prefixes(guided_fraction=0.1)]).state()
    assert (len(state["transform"]), len(state["policies"])) == (1, 1)


def test_a_bonus_of_ones_own_is_named_by_its_file(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    parts = configured(config_with({"bonus": {f"{file}:shorter": {"weight": 0.5}}}))
    assert isinstance(parts[0], Transform)
    for name, message in (
        (f"{file}:shortr", r"has no 'shortr'; did you mean 'shorter'\?"),
        (f"{tmp_path}/none.py:shorter", "there is no file"),
    ):
        with pytest.raises(ExtraError, match=message):
            configured(config_with({"bonus": {name: {}}}))
    with pytest.raises(ExtraError, match="it gave 3, which is no Transform"):
        configured(config_with({"bonus": {f"{file}:number": {"weight": 3}}}))
    with pytest.raises(ExtraError, match="weight is missing"):
        configured(config_with({"bonus": {f"{file}:number": {}}}))


@pytest.mark.parametrize(
    ("explore", "message"),
    [
        ({"preset": "korrected"}, "'grpo', 'corrected'"),
        ({"bonuss": {}}, r"did you mean 'explore.bonus'\?"),
        ({"bonus": {"novlty": {}}}, r"explore.bonus: no bonus is called 'novlty'; did you mean 'novelty'\?"),
        ({"bonus": {"zzzz": {}}}, r"no bonus is called 'zzzz'. There are novelty, and your own"),
        ({"prompts": {"prefix": {}}}, r"no prompt policy is called 'prefix'; did you mean 'prefixes'\?"),
        ({"bonus": {"novelty": {"alfa": 1}}}, r"explore.bonus.novelty.alfa: unknown setting; did you mean 'alpha'\?"),
        ({"prompts": {"prefixes": {"min_token": 1}}}, r"min_token: unknown key; did you mean 'min_tokens'\?"),
        ({"preset": "corrected", "encoder": {"nme": "minilm"}}, r"nme: unknown key; did you mean 'name'\?"),
        ({"preset": "corrected", "encoder": {"name": "word2vec"}}, "explore.encoder:\n.*name: .*'hashed_ngram'"),
        (
            {"preset": "corrected", "encoder": NGRAMS, "prompts": {"prefixes": {"guided_fraction": 0.001}}},
            "less than one prompt; raise it to 0.015625",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_remedy(explore, message):
    with pytest.raises(ExtraError, match=message):
        explored(explore)


def test_what_is_no_part_of_exploration_is_refused():
    with pytest.raises(ExtraError, match="is neither a Transform nor a PromptPolicy; call it with its settings"):
        explored({}, [novelty])


def test_hidden_states_are_read_where_a_bonus_needs_them_or_vectors_made_of_them(tmp_path: Path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from extra_jax.explore import stateless\n"
        "def looks():\n"
        "    return stateless(lambda step, values, state: (values, state, {}))._replace(reads=('hidden',))\n"
    )
    for explore, expected in (
        ({"preset": "corrected", "encoder": {"name": "policy_hidden"}}, True),
        ({"prompts": {"prefixes": {}}, "encoder": {"name": "policy_hidden"}}, False),
        ({"preset": "corrected"}, False),
        ({"bonus": {f"{mine}:looks": {}}}, True),
        ({"bonus": {f"{mine}:looks": None}}, False),
    ):
        assert needs_hidden_states(config_with(explore)) is expected


def test_a_chooser_that_does_not_exist_is_found_before_the_first_step() -> None:
    with pytest.raises(ExtraError, match=r"no chooser of prefixes is called 'lenght'; did you mean 'length'\?"):
        prefixes(choose="lenght")


@pytest.mark.parametrize("key", ["novelty", "prefix", "arm", "probe", "std_epsilon"])
def test_a_key_of_before_is_answered_with_the_new_one(key: str) -> None:
    with pytest.raises(ExtraError, match=r"explore: .*\bnow\b"):
        config_from_dict({"model": {"preset": "tiny"}, "explore": {key: None}})
