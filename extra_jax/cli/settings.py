"""The verb ``config``: every setting, what a run has changed, and configurations of other libraries."""

import argparse
import difflib
from typing import TYPE_CHECKING

from extra_jax.cli.verb import Verb, print_table
from extra_jax.errors import ExtraError

if TYPE_CHECKING:
    from extra_jax.config.reference import Setting

_DEFAULT_RUN = {"model": {"path": "tiny-base"}}  # the one setting without a default


def _config(_: None, args: argparse.Namespace) -> None:
    if args.from_trl or args.from_verl:
        from extra_jax.config.convert import convert

        print(convert(args.from_trl or args.from_verl, "trl" if args.from_trl else "verl").as_yaml(), end="")
    elif args.diff:
        print("\n".join(_changed(args.diff)) or "nothing but the model is set: every other value is the default")
    elif args.all:
        print_table([["setting", "default", "meaning"], *([s.key, s.default, s.meaning] for s in _settings())])
    elif args.key:
        _explain(args.key)
    else:
        _overview()


def _settings() -> "list[Setting]":
    from extra_jax.config.reference import all_settings

    return all_settings()


def _overview() -> None:
    from extra_jax.config import Config
    from extra_jax.config.reference import presets_table

    counts = {name: sum(s.key.startswith(f"{name}.") for s in _settings()) for name in Config.model_fields}
    print_table([["section", "settings"], *([name, str(count)] for name, count in counts.items())])
    print("\nPresets of exploration (explore.preset):")
    print_table(presets_table())
    print("\nextra-jax config SECTION, config KEY or config --all says what they mean.")


def _explain(key: str) -> None:
    settings = _settings()
    chosen = [s for s in settings if s.key == key or s.key.startswith(f"{key}.")]
    if not chosen:
        names = [s.key for s in settings]
        by_leaf = {name.rpartition(".")[2]: name for name in reversed(names)}
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        near = near or [by_leaf[leaf] for leaf in difflib.get_close_matches(key, by_leaf, n=1, cutoff=0.6)]
        raise ExtraError(f"{key}: no such setting" + (f"; did you mean {near[0]!r}?" if near else ""))
    for setting in chosen:
        limits = f" ({setting.range})" if setting.range else ""
        print(f"{setting.key}: {setting.kind}{limits}, default {setting.default}\n  {setting.meaning}")


def _changed(run: str) -> list[str]:
    """The settings of a run, or of a YAML file, that are not the default."""
    from pathlib import Path

    from extra_jax.config import config_differences, config_from_dict, load_config
    from extra_jax.telemetry.files import CONFIG_FILE

    path = Path(run)
    return config_differences(
        config_from_dict(_DEFAULT_RUN), load_config(path / CONFIG_FILE if path.is_dir() else path)
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", nargs="?", help="a section or a setting, e.g. train or train.epsilon")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="every setting with its default and its meaning")
    what.add_argument("--diff", metavar="RUN", help="what a run, or a YAML file, has other than the defaults")
    what.add_argument("--from-trl", metavar="FILE", help="print a YAML file of TRL as one of ours")
    what.add_argument("--from-verl", metavar="FILE", help="print a YAML file of verl as one of ours")


VERBS = (
    Verb(
        "config",
        "explain settings, show what a run changed, translate a configuration of TRL or verl",
        "Without an argument: the sections and the presets. What --from-trl and --from-verl cannot translate stands\n"
        "as a comment below the YAML.",
        "extra-jax config train.epsilon\n  extra-jax config --from-trl grpo.yaml > ours.yaml",
        _config,
        _arguments,
        takes_config=False,
    ),
)
