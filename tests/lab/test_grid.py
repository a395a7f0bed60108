"""The task without arithmetic: what is correct, how often a guess is, and which walks are of one kind."""

import json
from dataclasses import asdict
from itertools import product

import pytest

from benchmarks.exploration.lab import grid as lab
from extra_jax.data.sources import guess_rates, load_problems
from extra_jax.data.tasks.family import split_name
from extra_jax.errors import ExtraError

SOURCE = "benchmarks/exploration/lab/grid.py:grid"
SMALL = {"size": [3, 4], "shortest": [2, 4], "walls": 0.2}
RING = lab.Map(["s..", ".x.", "..g"], 4)


def walked(rows, budget, moves):
    """Another reading of the rules: coordinates, one move after the other."""
    marks = {(i, j): mark for i, row in enumerate(rows) for j, mark in enumerate(row)}
    row, column = next(cell for cell, mark in marks.items() if mark == "s")
    for move in moves:
        row += {"u": -1, "d": 1}.get(move, 0)
        column += {"l": -1, "r": 1}.get(move, 0)
        if marks.get((row, column), "x") == "x":
            return False
    return 0 < len(moves) <= budget and marks[row, column] == "g"


def test_problems_are_solvable_distinct_and_of_their_split():
    problems = load_problems(SOURCE, split="test", limit=12, seed=3, **SMALL)
    assert problems == load_problems(SOURCE, split="test", limit=12, seed=3, **SMALL)
    for problem in problems:
        rows, budget = problem.meta["rows"], problem.meta["budget"]
        assert split_name(problem.uid) == "test"
        assert problem.prompt == f"grid {budget}\n" + "".join(f"{row}\n" for row in rows)
        assert walked(rows, budget, problem.solution.strip())


def test_maps_that_anybody_guesses_can_be_left_out():
    plain = lab.grid(30, seed=3, split="train", **SMALL)
    hard = lab.grid(10, seed=3, split="train", guessable=0.2, **SMALL)
    assert max(map(lab.guess_rate, plain)) > 0.2 >= max(map(lab.guess_rate, hard))
    kept = [problem for problem in plain if lab.guess_rate(problem) <= 0.2]
    assert kept[:5] == hard[:5], "the others are those of the same draw"


def test_problems_of_a_prepared_file_are_its_first_ones_and_can_be_guessed(tmp_path):
    problems = lab.grid(3, seed=3, split="test", **SMALL)
    rows = "".join(json.dumps(asdict(problem)) + "\n" for problem in problems)
    (tmp_path / "test.jsonl").write_text(rows)
    source = SOURCE.replace(":grid", ":stored")
    assert load_problems(source, split="test", limit=2, folder=str(tmp_path)) == problems[:2]
    assert guess_rates(source, problems) == [lab.guess_rate(problem) for problem in problems]
    with pytest.raises(ExtraError, match="3 problems of 4"):
        load_problems(source, split="test", limit=4, folder=str(tmp_path))


def test_every_line_of_up_to_five_moves_gets_the_verdict_of_the_rules():
    of = lab.Map(["s.x", "..g"], 5)
    lines = ["".join(moves) for length in range(6) for moves in product("udlr", repeat=length)]
    verdicts = lab.reaches([""] * len(lines), [f"{line}\n" for line in lines], [of.rows] * len(lines), [5] * len(lines))
    assert verdicts == [float(walked(of.rows, 5, line)) for line in lines]
    assert 0 < sum(verdicts) < len(lines)


@pytest.mark.parametrize("text", ["", "\n", "drr\ndrr\n", "drr ", "down", "DRR\n", "drr\n\n"])
def test_what_is_no_line_of_moves_is_wrong(text):
    assert not lab.solves(lab.Map(["s.x", "..g"], 5), text)


def test_simple_walks_are_those_that_exhaustion_finds():
    of = lab.Map(["s..", ".x.", "..g", "..."], 6)
    lines = ("".join(moves) for length in range(1, 7) for moves in product("udlr", repeat=length))
    correct = [line for line in lines if walked(of.rows, of.budget, line)]
    simple = [line for line in correct if len(set(of.walk(line))) == len(line) + 1]
    assert sorted(lab.simple_walks(of)) == sorted(simple)


def test_the_guesser_by_hand_and_by_enumeration():
    # right or down, then along the ring; at the corner only one way is no way back
    assert lab.guess_rate(problem(RING)) == 1.0
    line = lab.Map([".s.g"], 2)  # left or right; then straight on
    assert lab.guess_rate(problem(line)) == 0.5
    assert lab.guess_rate(problem(lab.Map([".s.g"], 4))) == 1.0  # left, and back, because nothing else is left
    of = lab.Map(["s..", "...", "..g"], 5)

    def enumerate_walks(cell, last, left):
        if cell == of.goal:
            return 1.0
        back = {"u": "d", "d": "u", "l": "r", "r": "l"}.get(last)
        legal = [(move, there) for move, there in of.steps(cell) if move != back]
        return sum(enumerate_walks(there, move, left - 1) for move, there in legal) / len(legal) if left else 0.0

    assert lab.guess_rate(problem(of)) == pytest.approx(enumerate_walks(of.start, "", 5))
    assert guess_rates(SOURCE, [problem(line)]) == [0.5]


def test_a_kind_is_the_side_on_which_walls_are_passed():
    assert lab.route(RING, "rrdd") != lab.route(RING, "ddrr")
    open_map = lab.Map(["s..", "...", "..g"], 4)
    assert len({lab.route(open_map, moves) for moves in lab.simple_walks(open_map)}) == 1
    detour = lab.Map(["s...", ".x..", "...g"], 7)
    assert lab.route(detour, "rrrdd") == lab.route(detour, "rrdrd")


def test_kinds_can_be_asked_for():
    for drawn in load_problems(SOURCE, split="train", limit=4, seed=0, size=[4, 5], shortest=[4, 6], kinds=2):
        of = lab.Map(drawn.meta["rows"], drawn.meta["budget"])
        assert len({lab.route(of, moves) for moves in lab.simple_walks(of)}) >= 2


@pytest.mark.parametrize(
    "wrong", [{"size": [1, 3]}, {"walls": 1.0}, {"kinds": 0}, {"shortest": [40, 40], "size": [2, 3]}]
)
def test_impossible_settings_are_refused(wrong, monkeypatch):
    monkeypatch.setattr(lab, "_DRAWS", 50)
    with pytest.raises(ExtraError, match="grid"):
        lab.grid(2, seed=0, split="train", **wrong)


def problem(of):
    return lab._problem(of, "")
