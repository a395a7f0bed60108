"""Fetching standard sets: from a folder, from a hub that is replaced, and without either."""

import json
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest

from extra_jax import cli
from extra_jax.data.fetch import STANDARD, fetch, located
from extra_jax.data.sources import load_file
from extra_jax.errors import ExtraError

HUB_ROWS = {
    "aime24": {"id": 60, "problem": "p?", "solution": "so", "answer": "204", "url": "x", "year": "2024"},
    "aime25": {"id": "0", "problem": "p?", "answer": "70"},
    "amc23": {"id": 0, "question": "p?", "answer": 27.0, "url": "x"},
    "math500": {"problem": "p?", "solution": "so", "answer": "\\frac{1}{2}", "unique_id": "test/algebra/1.json"},
    "minerva": {"question": "p?", "answer": "1.6"},
    "olympiadbench": {"id": 1606, "question": "p?", "solution": ["so"], "final_answer": ["2", "3"]},
    "dapo_math_17k": {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": "p?".join(STANDARD["dapo_math_17k"].unwrap)}],
        "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4"},
    },
}  # fmt: skip
EXPECTED = {
    "aime24": {"uid": "aime24/60", "answer": "204", "solution": "so"},
    "aime25": {"uid": "aime25/0", "answer": "70"},
    "amc23": {"uid": "amc23/0", "answer": "27"},
    "math500": {"uid": "math500/test/algebra/1.json", "answer": "\\frac{1}{2}", "solution": "so"},
    "minerva": {"uid": "minerva/1", "answer": "1.6"},
    "olympiadbench": {"uid": "olympiadbench/1606", "answer": "2, 3", "solution": "so"},
    "dapo_math_17k": {"uid": "dapo_math_17k/9a9b6eb4", "answer": "34"},
}


@pytest.fixture
def hub(monkeypatch):
    """Replaces the package `datasets` by a hub that has one row of every set, twice; returns what was asked for."""
    asked = []

    def load_dataset(repository, config, split):
        asked.append((repository, config, split))
        name = next(name for name, standard in STANDARD.items() if standard.repository == repository)
        return [HUB_ROWS[name]] * (2 if name == "dapo_math_17k" else 1)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


@pytest.mark.parametrize("name", STANDARD)
def test_a_set_of_the_hub_becomes_our_columns(name, hub, tmp_path):
    fetched = fetch(name, tmp_path / "data")
    standard = STANDARD[name]
    assert hub == [(standard.repository, standard.config, standard.split)]
    assert (fetched.rows, fetched.published) == (1, standard.rows)
    (row,) = [json.loads(line) for line in fetched.path.read_text().splitlines()]
    assert row == {"prompt": "p?", "source": name, **EXPECTED[name]}
    assert load_file(str(fetched.path))[0].uid == row["uid"]


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_downloaded_file_in_the_columns_of_the_hub_is_read(name, suffix, tmp_path):
    path = tmp_path / f"{name}.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(HUB_ROWS[name]) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([HUB_ROWS[name]]), path)
    row = json.loads(fetch(name, tmp_path / "data", tmp_path).path.read_text())
    assert row == {"prompt": "p?", "source": name, **EXPECTED[name]}


@pytest.mark.parametrize("name", STANDARD)
def test_a_file_in_our_columns_is_kept(name, tmp_path):
    row = {"uid": f"{name}/7", "prompt": "p?", "answer": "1", "solution": "so", "source": name}
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert json.loads(fetch(name, tmp_path / "data", tmp_path).path.read_text()) == row
    again = fetch(name, tmp_path / "again", tmp_path / "data")
    assert again.path.read_bytes() == (tmp_path / "data" / f"{name}.jsonl").read_bytes()


def test_fetching_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraError, match=r"`datasets`, which is not installed.*--source"):
        fetch("aime24", tmp_path)

    def offline(*_, **__):
        raise ConnectionError("no route to the hub")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=offline))
    with pytest.raises(ExtraError, match=r"no route to the hub\)\. Without a network, download"):
        fetch("aime24", tmp_path)
    with pytest.raises(ExtraError, match=r"has neither aime24\.jsonl nor aime24\.parquet"):
        fetch("aime24", tmp_path, tmp_path)
    with pytest.raises(ExtraError, match=r"no data set is called 'aime2'\. Did you mean 'aime2"):
        fetch("aime2", tmp_path)
    (tmp_path / "aime24.jsonl").write_text('{"problem": "p", "answer": ""}\n')
    with pytest.raises(ExtraError, match=r"aime24\.jsonl, row 1, key 'answer': empty"):
        fetch("aime24", tmp_path, tmp_path)
    assert not (tmp_path / "aime24.tmp").exists()


def test_a_name_is_a_file_once_it_was_fetched(tmp_path):
    assert located("mine.jsonl", "data") == "mine.jsonl"
    with pytest.raises(ExtraError, match=r"data fetch aime24 --out .*eval\.dir=FOLDER"):
        located("aime24", str(tmp_path))
    (tmp_path / "aime24.jsonl").touch()
    assert located("aime24", str(tmp_path)) == str(tmp_path / "aime24.jsonl")


def test_the_verb_reports_a_number_that_was_not_published(hub, tmp_path, capsys):
    assert cli.main(["data", "fetch", "aime24", "amc23", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/aime24.jsonl: 1 problems; 30 were published: check the source"
    assert len(lines) == 2
