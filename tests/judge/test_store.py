"""Stores: shards appear whole or not at all, in folders and buckets; scores find their rollouts and nothing else."""

import json
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from etils.epath import testing
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.judge import store
from extra_jax.judge.join import STATUSES, join_scores

from .stores import POLICY, chain_store


def read_all(folder):
    return [row for shard in store.rollout_parts(folder) for row in shard.read()]


def score_row(row, segment=0, status="ok", score=3.0, **changes):
    score = score if status == "ok" else None
    sha = store.text_sha(row["text"])
    return {
        "rollout_id": row["rollout_id"],
        "segment": segment,
        "text_sha": sha,
        "status": status,
        "score": score,
    } | changes


def test_rollouts_read_back_as_written_with_a_row_group_a_prompt(tmp_path):
    rows = chain_store(tmp_path, prompts=5, samples=3)
    found = read_all(tmp_path)
    assert len(found) == len(rows) == 15
    for row, expected in zip(found, rows, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(row[name], value, err_msg=name)
    shard = store.rollout_parts(tmp_path)[1]
    assert shard.groups == 2
    assert {row["group"] for row in shard.read(("group",), [1])} == {rows[12]["group"]}


def test_a_pipe_among_the_parts_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "rollouts").mkdir()
    os.mkfifo(tmp_path / "rollouts/a.parquet")
    with pytest.raises(ExtraError, match=r"a\.parquet: is not an ordinary file"):
        store.rollout_parts(tmp_path)


def test_writing_twice_leaves_one_copy(tmp_path):
    chain_store(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "rollouts").iterdir()}
    chain_store(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "rollouts").iterdir()} == before


def test_incomplete_files_are_skipped_and_named(tmp_path, caplog):
    rows = chain_store(tmp_path, shards=2)
    whole = tmp_path / "rollouts" / f"{store.part_name(0, POLICY, 0)}.parquet"
    (tmp_path / "rollouts" / "copying.parquet").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "rollouts" / "empty.parquet").write_bytes(b"")
    (tmp_path / "rollouts" / f".{whole.name}.77.tmp").write_bytes(b"PAR1")
    with caplog.at_level(logging.WARNING):
        assert len(read_all(tmp_path)) == len(rows)
    assert "skipped 2 incomplete files: copying.parquet, empty.parquet" in caplog.text


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    chain_store(tmp_path, shards=1)
    path = next((tmp_path / "rollouts").glob("*.parquet"))
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_file(epath.Path(path), b"half")
    assert path.read_bytes() == before
    assert len(store.rollout_parts(tmp_path)) == 1


def test_a_bucket_works_like_a_folder(tmp_path):
    def local(path):
        return str(path).replace("gs://bucket", str(tmp_path))

    def remote(path):
        return str(path).replace(str(tmp_path), "gs://bucket")

    mocks = {
        "open": lambda fn, path, *args, **kwargs: fn(local(path), *args, **kwargs),
        "exists": lambda fn, path: fn(local(path)),
        "isdir": lambda fn, path: fn(local(path)),
        "mkdir": lambda fn, path, **kwargs: fn(local(path), **kwargs),
        "makedirs": lambda fn, path, **kwargs: fn(local(path), **kwargs),
        "glob": lambda fn, path: [remote(found) for found in fn(local(path))],
        "listdir": lambda fn, path: fn(local(path)),
    }
    with testing.mock_epath(**mocks):
        rows = chain_store("gs://bucket/runs")
        assert len(read_all("gs://bucket/runs")) == len(rows)
        store.describe_judge("gs://bucket/runs", "j", {"model": "m"})
        store.write_scores("gs://bucket/runs", "j", "s-0", [score_row(rows[0])])
        assert store.judges("gs://bucket/runs") == {"j": {"model": "m"}}
        assert [row["score"] for row in store.score_rows("gs://bucket/runs", "j")] == [3.0]
    assert (tmp_path / "runs" / "scores" / "j" / "s-0.parquet").is_file()


def test_no_rollouts_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ExtraError, match=r"extra-jax rollout CONFIG\.yaml"):
        store.rollout_parts(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    chain_store(tmp_path, shards=1)
    path = next((tmp_path / "rollouts").glob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["text"]), path)
    with pytest.raises(ExtraError, match=r"\.parquet: no column 'text'"):
        store.rollout_parts(tmp_path)[0].read(("text",))


def test_a_store_holds_rollouts_drawn_in_one_way(tmp_path):
    for _ in range(2):
        store.settle(tmp_path, "sampling.json", {"temperature": 1.3, "segments": {"min_tokens": 1}})
    with pytest.raises(ExtraError, match=r"temperature: 1.3 -> 1.0\nUse them, or another folder"):
        store.settle(tmp_path, "sampling.json", {"temperature": 1.0, "segments": {"min_tokens": 1}})


def test_every_kind_of_misfit_is_counted_and_none_becomes_a_score(tmp_path):
    rows = chain_store(tmp_path, prompts=2, samples=4)[:7]
    scores = [
        score_row(rows[0], score=4.0),
        score_row(rows[1], score=2.0),
        score_row(rows[1], score=5.0),  # duplicate
        score_row(rows[2], status="timeout"),
        score_row(rows[2], score=1.0),  # the second try succeeded
        score_row(rows[3], status="parse"),
        score_row(rows[4], text_sha="0" * 16),  # of another text
        score_row(rows[5], rollout_id="elsewhere"),
        score_row(rows[0], segment=3),  # no such unit
    ]
    joined = join_scores(rows, scores, whole=True)
    found = [float(s[0]) for s in joined.scores]
    np.testing.assert_array_equal(found, [4, 2, 1, np.nan, np.nan, np.nan, np.nan])
    assert joined.complete.tolist() == [True, True, True, False, False, False, False]
    expected = {"units": 7, "ok": 3, "parse": 1, "missing": 3, "duplicate": 1, "stale": 1, "foreign": 2}
    assert Counter(joined.counts) == Counter(expected)
    assert joined.counts["ok"] + joined.counts["missing"] + sum(joined.counts[s] for s in STATUSES[1:]) == 7
    assert join_scores(rows, scores, whole=True, duplicates="mean").scores[1][0] == 3.5
    with pytest.raises(ExtraError, match="2 scores for segment 0"):
        join_scores(rows, scores, whole=True, duplicates="error")


def test_segments_join_by_number_and_a_rollout_is_complete_with_all_of_them(tmp_path):
    rows = chain_store(tmp_path, prompts=1, samples=2)
    units = [len(row["segment_tokens"]) for row in rows]
    scores = [score_row(rows[0], segment, score=1 + segment % 5) for segment in reversed(range(units[0]))]
    scores += [score_row(rows[1], segment) for segment in range(units[1] - 1)]
    joined = join_scores(rows, scores, whole=False)
    assert joined.scores[0].tolist() == [1 + segment % 5 for segment in range(units[0])]
    assert joined.complete.tolist() == [True, False]
    assert (joined.counts["units"], joined.counts["missing"]) == (sum(units), 1)


@pytest.mark.parametrize("score", [0.0, 5.5, None])
def test_a_score_outside_the_scale_is_refused(tmp_path, score):
    rows = chain_store(tmp_path, prompts=1, samples=1, shards=1)
    with pytest.raises(ExtraError, match="not within 1 to 5"):
        join_scores(rows, [score_row(rows[0], score=1.0) | {"score": score}], whole=True)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(STATUSES), st.integers(1, 5)), max_size=20))
@settings(max_examples=100)
def test_the_counts_add_up_whatever_comes(entries):
    sha = store.text_sha("t")
    rows = [{"rollout_id": str(i), "text_sha": sha, "segment_tokens": [1]} for i in range(4)]
    scores = [score_row({"rollout_id": str(i), "text": "t"}, status=status, score=s) for i, status, s in entries]
    joined = join_scores(rows, scores, whole=True)
    counts = joined.counts
    assert counts["units"] == 4 == counts["ok"] + counts["missing"] + sum(counts[s] for s in STATUSES[1:])
    assert counts["ok"] == joined.complete.sum()
    accepted = sum(status == "ok" and i < 4 for i, status, _ in entries)
    assert counts["ok"] + counts["duplicate"] == accepted
    json.dumps(counts)


def test_files_of_others_are_cast_or_named(tmp_path):
    chain_store(tmp_path, prompts=1, samples=1, shards=1)
    folder = tmp_path / "scores" / "theirs"
    folder.mkdir(parents=True)
    row = {"rollout_id": "a", "segment": 0, "text_sha": "b", "status": "ok", "score": 4}

    def read(change, types=None):
        table = pa.table({key: pa.array([value], (types or {}).get(key)) for key, value in (row | change).items()})
        pq.write_table(table, folder / "part-0.parquet")
        return list(store.score_rows(tmp_path, "theirs"))

    assert read({}, {"rollout_id": pa.large_string(), "segment": pa.int64()}) == [row]
    assert read({"segment": None, "score": None}) == [row | {"segment": None, "score": None}]
    for change in ({"score": "high"}, {"segment": 2**40}, {"score": [1.0]}, {"status": {"x": 1}}):
        with pytest.raises(ExtraError, match=r"part-0\.parquet: cannot be read"):
            read(change)
