"""What the page knows of a run: an index that is right, small, and grows with the files."""

import json
import sys
import tracemalloc

import pytest

from extra_jax.errors import ExtraError
from extra_jax.view.answers import Answers
from extra_jax.view.curves import POINTS, Curves
from extra_jax.view.groups import GROUP, Wanted
from extra_jax.view.rows import brief
from extra_jax.view.sources import Lines, Source
from extra_jax.view.viewed import Viewed
from view.fakes import HOSTILE, indexed, metrics_row, random_rows, row, small_run, write_metrics, write_step

ARRAYS = ("prompt_ids", "completion_ids", "logprobs", "entropies", "prefix_ids")


def test_a_brief_row_is_the_row_with_lengths_for_arrays():
    for text in (*HOSTILE, 'ends in "prompt_ids": [', "[1, 2]", "\\", '\\"logprobs": [1'):
        one = row(1, 2, text, text, completion_ids=[], prefix_ids=[5, 6])
        whole = json.loads(json.dumps(one))
        expected = {key: len(v) if key in ARRAYS and isinstance(v, list) else v for key, v in whole.items()}
        for separators in ((", ", ": "), (",", ":")):
            assert brief(json.dumps(one, separators=separators).encode()) == expected


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_row_is_none(line):
    assert brief(line) is None


def source_with(tmp_path, steps=5, groups=7, size=4):
    rows = {step: random_rows(step, groups, size) for step in range(1, steps + 1)}
    for step, own in rows.items():
        write_step(tmp_path, step, own)
    run = indexed(Viewed(tmp_path))
    return run, run.sources["training"], rows


def by_group(rows):
    """Neighbours of one problem with the same parent, the slow way."""
    groups = []
    for one in rows:
        if groups and (groups[-1][-1]["uid"], groups[-1][-1]["parent"]) == (one["uid"], one["parent"]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


FILTERS = [
    Wanted(),
    Wanted(step=3),
    Wanted(outcome="mixed"),
    Wanted(outcome="unsolved"),
    Wanted(outcome="solved"),
    Wanted(outcome="no_answer"),
    Wanted(bonus=True),
    Wanted(guided="yes"),
    Wanted(guided="no", truncated=True),
    Wanted(shortest=25),
    Wanted(longest=3, outcome="wrong"),
    Wanted(q="NEEDLE"),
    Wanted(q="p11"),
]


def passes(wanted, group):
    correct = sum(r["verdict"] == "correct" for r in group)
    outcome = {"": True, "mixed": 0 < correct < len(group), "unsolved": not correct, "solved": correct == len(group)}
    lengths = [len(r["completion_ids"]) for r in group]
    texts = [r[name].lower() for r in group for name in ("uid", "prompt", "completion")]
    return (
        wanted.step in (None, group[0]["step"])
        and outcome.get(wanted.outcome, any(r["verdict"] == wanted.outcome for r in group))
        and (not wanted.bonus or any((r["bonus"] or 0) > 0 for r in group))
        and (not wanted.guided or (group[0]["parent"] is not None) == (wanted.guided == "yes"))
        and (not wanted.truncated or any(r["stop_reason"] == "length" for r in group))
        and (wanted.shortest is None or max(lengths) >= wanted.shortest)
        and (wanted.longest is None or min(lengths) <= wanted.longest)
        and any(wanted.q.lower() in text for text in texts)
    )


@pytest.mark.parametrize("wanted", FILTERS)
def test_filters_and_pages_give_every_group_once(tmp_path, wanted):
    run, source, rows = source_with(tmp_path)
    expected = [
        f"{step}:{group[0]['rollout_id']}"
        for step in sorted(rows, reverse=True)
        for group in by_group(rows[step])
        if passes(wanted, group)
    ]
    refs, after = [], None
    while True:
        answer = run.groups(source, wanted, after, 3)
        refs += [entry["ref"] for entry in answer["groups"]]
        assert len(answer["groups"]) <= 3
        if answer["next"] is None:
            break
        after = tuple(map(int, answer["next"].split(":")))
    assert refs == expected
    assert answer["total"] in (None, len(expected))


def test_lineage_and_visits_against_brute_force(tmp_path):
    run, source, rows = source_with(tmp_path)
    for step, own in rows.items():
        for group in by_group(own):
            ids = {f"{step}:{r['rollout_id']}" for r in group}
            answer = run.group(source, step, group[-1]["rollout_id"], 0)
            assert [r["completion"] for r in answer["rows"]] == [json.loads(json.dumps(r["completion"])) for r in group]
            every = [(s, g) for s, own_rows in rows.items() for g in by_group(own_rows)]
            children = [f"{s}:{g[0]['rollout_id']}" for s, g in every if g[0]["parent"] in ids]
            assert [child["ref"] for child in answer["children"]] == children
            visits = [f"{s}:{g[0]['rollout_id']}" for s, g in every if g[0]["uid"] == group[0]["uid"]]
            assert [visit["ref"] for visit in answer["visits"]] == visits
            if group[0]["parent"]:
                assert answer["parent"]["row"]["ref"] == group[0]["parent"]


def test_a_group_comes_in_pages(tmp_path):
    write_step(tmp_path, 1, [row(1, i, "p") for i in range(40)])
    run = indexed(Viewed(tmp_path))
    pages = [run.group(run.sources["training"], 1, 0, first)["rows"] for first in (0, 16, 32, 48)]
    assert [len(page) for page in pages] == [16, 16, 8, 0]
    assert [r["rollout_id"] for page in pages for r in page] == list(range(40))


def test_ids_that_do_not_follow_each_other_are_found(tmp_path):
    ids = [50, 3, 99, 7, 0, 12]
    write_step(tmp_path, 1, [row(1, number, f"p{place // 2}") for place, number in enumerate(ids)])
    source = indexed(Viewed(tmp_path)).sources["training"]
    assert [source.find(1, number) for number in ids] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert source.find(1, 51) is None
    assert source.find(9, 50) is None


def test_it_grows_with_the_run_and_forgets_steps_that_run_again(tmp_path):
    write_step(tmp_path, 1, [row(1, 0, "a")])
    run = indexed(Viewed(tmp_path))
    source = run.sources["training"]
    before = source.generation
    write_step(tmp_path, 2, [row(2, 0, "b")])
    indexed(run)
    assert source.steps == [1, 2]
    assert source.generation > before
    write_step(tmp_path, 2, [row(2, 0, "other", "12345\n")])
    (tmp_path / "rollouts" / "step_000001.jsonl").unlink()
    indexed(run)
    assert [(entry["step"], entry["uid"]) for entry in run.groups(source, Wanted(), None, 9)["groups"]] == [
        (2, "other")
    ]


def test_damaged_and_foreign_files(tmp_path):
    path = write_step(tmp_path, 1, [row(1, 0, "a"), row(1, 1, "a")])
    with path.open("ab") as file:
        file.write(b'not json\n{"step": 1}\n[]\n\n{"uid": "half", "compl')
    folder = tmp_path / "rollouts"
    (folder / "step_000002.jsonl").write_bytes(b"")
    (folder / "step_000003.jsonl").mkdir()
    (folder / "step_x.jsonl").write_text("x")
    (folder / "step_000004.jsonl").write_text(
        '{"uid": 5, "rollout_id": "x", "reward": 1e999, "verdict": [], "completion": {}, "bonus": NaN, "parent": 3}\n'
        '{"uid": ["l"], "rollout_id": 1e30, "completion_ids": "no", "reward": null, "stop_reason": 7}\n'
    )
    run = indexed(Viewed(tmp_path))
    source = run.sources["training"]
    assert source.damaged() == 3
    assert [(s, len(block.groups)) for s, block in sorted(source.blocks.items())] == [(1, 1), (2, 0), (4, 2)]
    assert run.groups(source, Wanted(q="half"), None, 5)["groups"] == []
    for step in (1, 4):
        run.group(source, step, 0, 0)


def test_a_file_of_one_problem_is_cut_into_groups(tmp_path):
    write_step(tmp_path, 1, [row(1, i, "p", prompt="", completion="") for i in range(5000)])
    source = indexed(Viewed(tmp_path)).sources["training"]
    assert source.blocks[1].groups["n"].tolist() == [4096, 904]
    assert source.find(1, 4999) == (1, 903)


def test_an_index_is_small_and_reading_one_group_reads_that_alone(tmp_path):
    tokens = 600
    numbers = {"completion_ids": [9] * tokens, "logprobs": [-0.12345] * tokens, "entropies": [0.12345] * tokens}
    rows = [row(1, i, f"p{i // 8}", "x" * tokens, **numbers) for i in range(240)]
    size = write_step(tmp_path, 1, rows).stat().st_size
    del rows
    source = Source("training", "", Lines(tmp_path / "rollouts"))
    source.look()
    tracemalloc.start()
    try:
        source.read_one()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 3e6
    assert peak < size / 10
    assert kept < size / 50
    assert source.blocks[1].groups.nbytes == 30 * GROUP.itemsize <= 30 * 100


def test_curves_grow_by_whole_lines(tmp_path):
    write_metrics(tmp_path, [metrics_row(0), metrics_row(1)])
    curves = Curves(tmp_path)
    curves.look()
    path = tmp_path / "metrics.jsonl"
    line = json.dumps(metrics_row(2, loss=float("nan"), words="x", flag=None)).replace("NaN", "null")
    with path.open("a") as file:
        file.write(line[:20])
    curves.look()
    assert curves.columns()["steps"] == [0, 1]
    with path.open("a") as file:
        file.write(line[20:] + '\nbroken\n{"step": 2, "late": 1.5}\n')
    curves.look()
    columns = curves.columns()
    assert columns["steps"] == [0, 1, 2]
    assert columns["values"]["late"] == [None, None, 1.5]
    assert columns["values"]["reward"] == [0.0, 0.01, 0.02]
    assert "words" not in columns["values"]


def test_curves_of_a_file_that_was_cut_are_read_again(tmp_path):
    write_metrics(tmp_path, [metrics_row(step) for step in range(9)])
    curves = Curves(tmp_path)
    curves.look()
    before = curves.generation
    (tmp_path / "metrics.jsonl").unlink()
    write_metrics(tmp_path, [metrics_row(step, reward=7) for step in range(3)])
    curves.look()
    assert curves.generation > before
    assert curves.columns()["values"]["reward"] == [7, 7, 7]


def test_long_curves_are_thinned_and_keep_evaluations(tmp_path):
    write_metrics(tmp_path, [metrics_row(s, **({"eval_pass@1": 0.5} if s == 4001 else {})) for s in range(5001)])
    curves = Curves(tmp_path)
    curves.look()
    columns = curves.columns()
    assert len(columns["steps"]) <= POINTS + 2
    assert {0, 4001, 5000} <= set(columns["steps"])
    assert columns["every"] == 3


def test_tokens_give_the_text_and_the_kept_part_is_told(tmp_path):
    run = indexed(Viewed(small_run(tmp_path / "run")))
    rows = run.group(run.sources["training"], 3, 7, 0)["rows"]
    assert rows[0]["kept"] == "6+12=18\n"
    assert "".join(piece or "" for piece in rows[0]["pieces"]) == "1+1=2\n"
    assert rows[0]["pieces"][-1] is None  # the stop token
    other = run.group(run.sources["training"], 3, 2, 0)["rows"][0]
    assert other["pieces"] is None  # its ids do not give its text


def test_a_character_of_several_tokens_is_not_torn(tmp_path):
    run = Viewed(tmp_path)
    run.pieces._table = [bytes([i]) for i in range(256)]
    text = "a\u00e9\u6587\U0001f600b"
    pieces = run.pieces(list(text.encode()))
    assert "".join(pieces) == text
    assert len(pieces) == len(text.encode())
    assert run.pieces(list("\u00e9".encode())[:1]) == ["\ufffd"]
    assert run.pieces([999]) is None
    assert run.pieces("no list") is None


def test_a_tokenizer_that_is_not_there_is_told_and_texts_stay(tmp_path):
    run = small_run(tmp_path / "run")
    config = (run / "config.yaml").read_text().replace("tiny-base", "/nowhere/model")
    (run / "config.yaml").write_text(config)
    viewed = indexed(Viewed(run))
    shown = viewed.group(viewed.sources["training"], 1, 0, 0)["rows"][0]
    assert shown["pieces"] is None
    assert shown["completion"] == "6+12=18\n18-12=6\n"
    assert "/nowhere/model" in viewed.state()["no_tokens"]


def test_without_the_package_of_the_tokenizer_texts_stay(tmp_path, monkeypatch):
    viewed = indexed(Viewed(small_run(tmp_path / "run", steps=1)))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    shown = viewed.group(viewed.sources["training"], 1, 0, 0)["rows"][0]
    assert (shown["pieces"], shown["completion"]) == (None, "6+12=18\n18-12=6\n")
    assert "sentencepiece" in viewed.state()["no_tokens"]


def test_seeds_are_one_arm(tmp_path):
    for name, seed, rate in (("a-s0", 0, 0.1), ("a-s1", 1, 0.1), ("b-s0", 0, 0.2)):
        small_run(tmp_path / name, seed=seed, rate=rate, steps=1)
    about = [run.about() for run in Answers([str(tmp_path)]).runs]
    assert [one["arm_name"] for one in about] == ["a", "a", "b"]
    assert about[0]["arm"] == about[1]["arm"] != about[2]["arm"]
    assert [one["seed"] for one in about] == [0, 1, 0]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ExtraError, match="no such folder"):
        Answers([str(tmp_path / "x")])
    with pytest.raises(ExtraError, match="no run, and no folder of runs"):
        Answers([str(tmp_path)])
    with pytest.raises(ExtraError, match="gs://b/run"):
        Answers(["gs://b/run"])


def test_a_damaged_configuration_is_told(tmp_path):
    run = small_run(tmp_path / "run", steps=1)
    (run / "config.yaml").write_text("run: [")
    about = Viewed(run).about()
    assert "config.yaml" in about["fault"]
    assert about["seed"] is None
