"""A store of rollouts and scores, as the page shows it."""

import random

from judge.stores import POLICY, chain_text, rollout_row

from extra_jax.data.tasks import chain
from extra_jax.judge import store
from extra_jax.view.groups import Wanted
from extra_jax.view.viewed import Viewed
from view.fakes import indexed


def score_row(rollout, segment, score, reply, status="ok"):
    known = {"rollout_id": rollout["rollout_id"], "text_sha": store.text_sha(rollout["text"]), "attempts": 1}
    return known | {"segment": segment, "status": status, "score": score, "reply": reply}


def a_store(folder, problems=3, samples=4):
    draw = random.Random(0)
    drawn = chain.generate(problems, seed=0, split="train")
    groups = [[rollout_row(p, s, chain_text(p, draw)) for s in range(samples)] for p in drawn]
    name = store.part_name(0, POLICY, 0)
    store.write_rollouts(folder, name, groups)
    rows = [row for group in groups for row in group]
    scores = [score_row(row, i, 3.0, f"reply {i}") for row in rows for i in range(len(row["segment_tokens"]))]
    scores[0] |= {"status": "timeout", "score": None, "reply": None}
    store.write_scores(folder, "j1", store.scores_name(name, 0), scores)
    store.write_scores(folder, "j1", store.scores_name(name, 1), [score_row(rows[0], 0, 5.0, "at last")])
    return groups


def test_replies_stand_beside_their_segments(tmp_path):
    groups = a_store(tmp_path / "store")
    run = indexed(Viewed(tmp_path))
    source = run.sources["judge/j1"]
    entries = run.groups(source, Wanted(), None, 9)["groups"]
    assert [entry["uid"] for entry in entries] == [group[0]["uid"] for group in groups]
    assert [entry["correct"] for entry in entries] == [sum(r["verdict"] == "correct" for r in g) for g in groups]
    for entry, group in zip(entries, groups, strict=True):
        step, first = map(int, entry["ref"].split(":"))
        shown = run.group(source, step, first, 0)["rows"]
        assert [row["completion"] for row in shown] == [row["text"] for row in group]
        for row, stored in zip(shown, group, strict=True):
            assert len(row["judge"]) == len(stored["segment_tokens"])
            assert [unit["segment"] for unit in row["judge"]] == list(range(len(row["judge"])))
    step, first = map(int, entries[0]["ref"].split(":"))
    again = run.group(source, step, first, 0)["rows"][0]["judge"][0]
    assert again == {"segment": 0, "status": "ok", "score": 5.0, "reply": "at last"}


def test_search_reads_texts_of_the_store(tmp_path):
    groups = a_store(tmp_path / "store")
    run = indexed(Viewed(tmp_path))
    found_in = run.groups(run.sources["judge/j1"], Wanted(q="1+1=3"), None, 9)["groups"]
    expected = [g[0]["uid"] for g in groups if any("1+1=3" in row["text"] for row in g)]
    assert [entry["uid"] for entry in found_in] == expected


def test_a_copy_under_way_is_counted_and_comes_when_it_is_whole(tmp_path):
    a_store(tmp_path / "store")
    name = store.part_name(1, POLICY, 0)
    path = tmp_path / "store" / "rollouts" / f"{name}.parquet"
    path.write_bytes(b"PAR1")
    run = indexed(Viewed(tmp_path))
    source = run.sources["judge/j1"]
    assert source.damaged() == 1
    path.unlink()
    problem = chain.generate(1, seed=1, split="train")[0]
    store.write_rollouts(tmp_path / "store", name, [[rollout_row(problem, 0, "x=1\n", round_=1)]])
    indexed(run)
    assert source.damaged() == 0
    assert source.steps == [0, 10_000]


def test_a_store_without_a_judge_is_shown(tmp_path):
    groups = a_store(tmp_path / "store")
    for path in sorted((tmp_path / "store" / "scores").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    run = indexed(Viewed(tmp_path / "store"))
    shown = run.group(run.sources["judge/none"], 0, 0, 0)
    assert [row["judge"] for row in shown["rows"]] == [[] for _ in groups[0]]
