"""Every verb with a configuration that is damaged in every way."""

import pytest

from benchmarks.chaos.bad_input import DAMAGES, READS, prepare
from extra_jax import cli
from extra_jax.data.rows import check_template
from extra_jax.errors import ExtraError

OPTIONS = {"sample": ["--prompt", "x"], "export-hf": ["--out", "exported"], "plan": ["--topology", "v5e:4x4"]}
VERBS = [verb.name for verb in cli.VERBS if verb.takes_config]


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_verb_starts_with_a_damaged_configuration(tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text("model: {preset: tiny}\nrun: {dir: runs/x}\ndata: {source: countdown, limit: 4}\n")
    DAMAGES[damage](config)
    for verb in VERBS:
        for dry in ([], ["--dry-run"]):
            assert cli.main([verb, str(config), *dry, *OPTIONS.get(verb, [])]) == 2, verb
            said = capsys.readouterr().err
            assert said.startswith(f"extra-jax {verb}: {config}")
            assert len(said) < 3000
            assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"] * (damage != "missing")


def test_files_in_order_are_accepted(tmp_path, monkeypatch, capsys):
    prepare(tmp_path)
    accepted = [read for read in READS if read.name in ("config", "data of train", "lint parquet", "contamination")]
    for read in accepted:
        assert cli.main([text.format(W=tmp_path) for text in read.argv]) in (0, 1), capsys.readouterr().err


def test_a_dry_run_of_plan_reads_a_model_folder_that_is_there(tmp_path, capsys):
    prepare(tmp_path)
    plan = next(read for read in READS if read.name == "model of plan")
    argv = [text.format(W=tmp_path) for text in plan.argv]
    assert cli.main(argv) == 0
    (tmp_path / plan.file).write_text("[]")
    assert cli.main(argv) == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "field", ["problem:>99999999999", "problem:{x}", "problem!z", "problem!r", "x", "problem.x", ""]
)
def test_a_prompt_template_takes_the_problem_as_it_is(field):
    with pytest.raises(ExtraError, match="has the fields"):
        check_template(f"Solve {{{field}}} now")
