"""The section ``explore``: presets, arms, and what they refuse."""

import pytest
from extra_jax.config.explore_presets import ARMS

from explore.steps import config_of
from extra_jax.config import Config, ExploreConfig, NoveltyConfig, PrefixConfig, config_from_dict
from extra_jax.errors import ExtraError

ACKNOWLEDGED = {"arm": "B1", "acknowledge_bugs": True}


def test_exploration_is_off_unless_asked_for():
    explore = config_from_dict({"model": {"preset": "tiny"}}).explore
    assert explore.preset == "grpo"
    assert not explore.active
    assert not explore.novelty.enabled
    assert not explore.prefix.enabled


def test_the_recommended_preset_is_the_defaults_of_the_fields():
    explore = config_of({"preset": "corrected"}).explore
    assert (explore.novelty, explore.prefix) == (NoveltyConfig(), PrefixConfig())
    n, p = explore.novelty, explore.prefix
    assert (n.pool, n.pool_filter, n.min_history, n.centring, n.scaling) == (
        "both", "correct", 0, "loo_correct", "std_matched",
    )  # fmt: skip
    assert (n.alpha, n.cap, n.cap_ratio, n.schedule) == (0.5, 3.0, 1.5, "const")
    assert (p.hard_max_correct, p.source, p.cut, p.max_fraction) == (1, "prefer_correct", "contains_newline", 0.7)
    assert (p.queue_order, p.queue_max_age, p.one_per_prompt, p.requeue, p.budget, p.max_depth) == (
        "random", 8, True, True, "same_total", 1,
    )  # fmt: skip


def test_what_is_written_out_wins_over_arm_and_preset():
    explore = config_of({"arm": "N2", "novelty": {"control": "gaussian", "alpha": 0.3}}).explore
    assert (explore.preset, explore.novelty.control, explore.novelty.alpha) == ("corrected", "gaussian", 0.3)
    assert not explore.prefix.enabled
    release = config_of({"preset": "release_faithful", "prefix": {"cut": "contains_newline"}}).explore.prefix
    assert (release.cut, release.budget) == ("contains_newline", "full")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_valid_active_and_read_back_unchanged(arm):
    config = config_of({"arm": arm} | (ACKNOWLEDGED if arm == "B1" else {}))
    assert config.explore.active
    assert config.explore.needs_novelty, "real signals are logged in every arm"
    assert config_from_dict(config.model_dump(mode="json")) == config


def test_each_arm_changes_one_thing():
    """Besides which of the two mechanisms is on, an arm swaps at most one function of each."""

    def changed(arm: str) -> set[str]:
        base, other = (config_of({"arm": a}).explore.model_dump() for a in ("F", arm))
        return {
            f"{section}.{key}"
            for section in ("novelty", "prefix", "encoder")
            for key in base[section]
            if base[section][key] != other[section][key] and key != "enabled"
        }

    assert changed("N1") == changed("P1") == changed("G0") == set()
    assert changed("N2") == {"novelty.control"}
    assert changed("G2") == {"novelty.control", "novelty.centring"}  # a constant has no centred part
    assert changed("L1") == {"novelty.metric", "novelty.quantile_map"}
    assert changed("P6") == {"prefix.control"}
    assert changed("P5") == {"prefix.direction"}
    assert changed("FR") == {"novelty.control", "prefix.control"}


@pytest.mark.parametrize(
    ("explore", "message"),
    [
        ({"preset": "release_replica_with_bugs"}, "acknowledge_bugs=true"),
        ({"preset": "corrected", "prefix": {"ground_truth": "displaced"}}, "only in preset release_replica_with_bugs"),
        ({"preset": "grpo", "arm": "N1"}, "arm N1 needs preset corrected"),
        ({"preset": "corrected", "arm": "B0"}, "arm B0 needs preset release_faithful"),
        ({"preset": "release_faithful", "novelty": {"capacity": 4}}, "capacity=4 is smaller than .*num_generations=8"),
        ({"preset": "corrected", "prefix": {"slots_fraction": 0.001}}, "less than one prompt; raise it to 0.015625"),
        (
            {"preset": "corrected", "prefix": {"source": "correct", "hard_max_correct": 0}},
            "source=correct finds nothing",
        ),
        ({"preset": "corrected", "encoder": {"name": "policy_hidden"}}, "smoothing=prefix_overlap"),
        ({"arm": "L2", "novelty": {"centring": "loo_exact"}}, "needs distances between pairs"),
        ({"arm": "N2", "novelty": {"centring": "loo_all"}}, "no meaning with replaced distances"),
        ({"preset": "corrected", "novelty": {"placement": "before"}}, "cap_ratio looks at advantages"),
        ({"preset": "corrected", "novelty": {"quantile_map": True}}, "quantile_map maps another metric"),
        ({"preset": "corrected", "novelty": {"alfa": 1}}, "did you mean 'explore.novelty.alpha'"),
        ({"preset": "korrected"}, "'grpo', 'corrected'"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_remedy(explore, message):
    with pytest.raises(ExtraError, match=message):
        config_of(explore)


def test_a_small_memory_is_allowed_where_no_history_is_needed():
    assert config_of({"preset": "corrected", "novelty": {"capacity": 2}}).explore.novelty.capacity == 2


def test_every_field_names_its_source():
    def fields(section: type) -> list:
        own = list(section.model_fields.items())
        return own + [
            f for _, field in own if hasattr(field.annotation, "model_fields") for f in fields(field.annotation)
        ]

    described = [(name, f) for name, f in fields(ExploreConfig) if not hasattr(f.annotation, "model_fields")]
    assert len(described) > 60
    for name, field in described:
        assert field.description, name
        assert field.description.endswith("]"), f"{name} names no source"


def test_guided_slots_are_the_published_share():
    config: Config = config_of({"preset": "release_faithful"}, prompts_per_step=512, num_generations=6)
    assert config.guided_slots == 16
