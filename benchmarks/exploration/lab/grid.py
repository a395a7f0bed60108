"""Grid: a walk from ``s`` to ``g`` around the walls, within a budget of moves. No arithmetic, many right answers.

A task by the doors of the package. The prompt is a map, the completion a line of moves (``u``, ``d``, ``l``, ``r``):

    grid 8
    s.x..
    ..x..
    ....g

Many walks are correct, and they differ in kind: `route` says on which side of every wall a walk went by. `guess_rate`
is what somebody reaches who sees the walls and nothing else. Train and test maps never meet: a hash of the map decides.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from extra_jax import Problem
from extra_jax.data.tasks.family import check_bound, check_span, draw_distinct, split_name
from extra_jax.errors import ExtraError
from extra_jax.files import ordinary_file, parse_json

FAMILY = "grid"
MOVES = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}
_REVERSE = {"u": "d", "d": "u", "l": "r", "r": "l"}

_MOST_WALKS = 500  # of a map; more open ones are not drawn
_DRAWS = 20_000  # maps without a problem among them, after which the settings are taken for impossible

Cell = tuple[int, int]


class Map:
    """A map and its budget; cells are ``(row, column)`` from the upper left.

    Args:
        rows: equally long lines of ``.``, ``x`` (wall), one ``s`` and one ``g``.
        budget: most moves of a walk.
    """

    def __init__(self, rows: Sequence[str], budget: int):
        self.rows, self.budget = tuple(rows), budget
        cells = {(i, j): mark for i, row in enumerate(rows) for j, mark in enumerate(row)}
        self.walls = [cell for cell, mark in cells.items() if mark == "x"]
        self.free = {cell for cell, mark in cells.items() if mark != "x"}
        self.start, self.goal = (next(cell for cell, mark in cells.items() if mark == end) for end in "sg")

    def steps(self, cell: Cell) -> list[tuple[str, Cell]]:
        """Legal moves out of a cell, each with the cell it leads to."""
        reached = [(move, (cell[0] + down, cell[1] + right)) for move, (down, right) in MOVES.items()]
        return [(move, there) for move, there in reached if there in self.free]

    def forward(self, cell: Cell, last: str) -> list[tuple[str, Cell]]:
        """Legal moves that do not go straight back, but where nothing else is left."""
        steps = self.steps(cell)
        return [step for step in steps if step[0] != _REVERSE.get(last)] or steps

    def walk(self, moves: str) -> list[Cell] | None:
        """The cells of a walk, its start first; ``None`` where it leaves the map or runs into a wall."""
        cells = [self.start]
        for move in moves:
            there = dict(self.steps(cells[-1])).get(move)
            if there is None:
                return None
            cells.append(there)
        return cells

    def distances(self) -> dict[Cell, int]:
        """Moves from every cell that reaches the goal."""
        distance, frontier = {self.goal: 0}, [self.goal]
        for cell in frontier:
            for _, there in self.steps(cell):
                if there not in distance:
                    distance[there] = distance[cell] + 1
                    frontier.append(there)
        return distance


def grid(
    count: int,
    *,
    seed: int,
    split: str,
    size: tuple[int, int] = (6, 7),
    shortest: tuple[int, int] = (6, 10),
    slack: int = 2,
    walls: float = 0.2,
    kinds: int = 1,
    guessable: float = 1.0,
) -> list[Problem]:
    """Draws ``count`` distinct maps; a function of the arguments alone.

    Args:
        count: how many.
        seed: of the draw, and of the reference walks.
        split: ``"train"`` or ``"test"``.
        size: lowest and highest count of rows, and of columns.
        shortest: lowest and highest length of the shortest walk.
        slack: how many moves more than the shortest walk the budget has.
        walls: probability that a cell is a wall.
        kinds: least number of kinds (`route`) among the walks within the budget that enter no cell twice.
        guessable: largest `guess_rate` of a map, so that what is measured is not what anybody guesses.

    Returns:
        Problems whose ``meta`` is ``{"rows": [...], "budget": int}``. The reference is one of the walks within the
        budget that enter no cell twice, drawn with equal probability of each.

    Raises:
        ExtraError: bad bounds, or fewer maps than asked for.
    """
    low, high = check_span(FAMILY, "size", size, 2, 12)
    least, most = check_span(FAMILY, "shortest", shortest, 1, 40)
    check_bound(FAMILY, "slack", slack, 0)
    check_bound(FAMILY, "kinds", kinds, 1)
    if not 0 <= walls < 1:
        raise ExtraError(f"{FAMILY}: walls is {walls!r}; give a probability below 1")

    difficulty = {"size": (low, high), "shortest": (least, most), "slack": slack, "walls": walls, "kinds": kinds}
    if guessable < 1:
        difficulty["guessable"] = guessable

    def sample(rng: random.Random) -> Problem:
        # most maps are of the other split or too short: they are dropped before their walks are listed
        for _ in range(_DRAWS):
            of = _draw(rng, (low, high), walls)
            distance = of.distances().get(of.start, 0)
            of.budget = distance + rng.randint(0, slack)
            if least <= distance <= most and split_name(_uid(of)) == split:
                walks = simple_walks(of)
                if len(walks) <= _MOST_WALKS and _has_kinds(of, walks, kinds):
                    problem = _problem(of, rng.choice(walks))
                    if guessable >= 1 or guess_rate(problem) <= guessable:
                        return problem
        bounds = ", ".join(f"{name}={value}" for name, value in difficulty.items())
        raise ExtraError(f"{FAMILY}: of {_DRAWS:,} maps none is of split {split!r} with {bounds}; make it easier")

    def listing(rng: random.Random) -> Iterator[Problem | None]:
        while True:  # a family with as many maps cannot be listed
            yield sample(rng)

    return draw_distinct(
        count, family=FAMILY, split=split, seed=seed, difficulty=difficulty, sample=sample, listing=listing
    )


def simple_walks(of: Map) -> list[str]:
    """All walks to the goal within the budget that enter no cell twice; of an open map not more than a limit."""
    distance, walks = of.distances(), []
    pending: list[tuple[Cell, str, frozenset[Cell]]] = [(of.start, "", frozenset([of.start]))]
    while pending and len(walks) <= _MOST_WALKS:
        cell, moves, seen = pending.pop()
        if cell == of.goal:
            walks.append(moves)
            continue
        pending += [
            (there, moves + move, seen | {there})
            for move, there in of.steps(cell)
            if there not in seen and len(moves) + 1 + distance.get(there, of.budget) <= of.budget
        ]
    return walks


def reaches(prompts: list[str], completions: list[str], rows: list[list[str]], budget: list[int], **_) -> list[float]:
    """1 for a line of legal moves that ends on the goal within the budget, else 0."""
    return [
        float(solves(Map(map_rows, moves), completion))
        for map_rows, moves, completion in zip(rows, budget, completions, strict=True)
    ]


def solves(of: Map, completion: str) -> bool:
    moves = completion.removesuffix("\n")
    if not moves or len(moves) > of.budget or set(moves) - set(MOVES):
        return False
    cells = of.walk(moves)
    return cells is not None and cells[-1] == of.goal


def guess_rate(problem: Problem) -> float:
    """Probability that uniformly random legal moves, none straight back, meet the goal within the budget; exact."""
    of = Map(problem.meta["rows"], problem.meta["budget"])

    @cache
    def rate(cell: Cell, last: str, left: int) -> float:
        if cell == of.goal:
            return 1.0
        steps = of.forward(cell, last) if left else []
        return sum(rate(there, move, left - 1) for move, there in steps) / len(steps) if steps else 0.0

    return rate(of.start, "", of.budget)


def stored(count: int, *, seed: int, split: str, folder: str) -> list[Problem]:
    """The first ``count`` problems of ``FOLDER/SPLIT.jsonl``, which `base.py` wrote: many maps take minutes to draw."""
    with ordinary_file(Path(folder) / f"{split}.jsonl").open(encoding="utf-8") as lines:
        problems = [
            Problem(**parse_json(line, f"{folder}/{split}.jsonl")) for line, _ in zip(lines, range(count), strict=False)
        ]
    if len(problems) < count:
        raise ExtraError(f"{folder}/{split}.jsonl: {len(problems)} problems of {count}; run base.py with more")
    return problems


grid.guesser = stored.guesser = guess_rate  # type: ignore[attr-defined]


def route(of: Map, moves: str) -> tuple[int, ...]:
    """The kind of a correct walk: for every wall, how often it is passed above, to the right less to the left.

    Two walks that can be pushed into each other without crossing a wall have the same kind (the first homology class of
    the map without its walls); a detour around a wall has another.
    """
    cells = of.walk(moves)
    if cells is None:
        raise ValueError(f"{moves!r} is no walk on this map")
    crossings = dict.fromkeys(of.walls, 0)
    for (row, column), (_, after) in pairwise(cells):
        for wall in of.walls:
            # the ray upwards from a wall lies between its column and the next
            if row < wall[0] and {column, after} == {wall[1], wall[1] + 1}:
                crossings[wall] += after - column
    return tuple(crossings.values())


def _draw(rng: random.Random, sizes: tuple[int, int], walls: float) -> Map:
    height, width = rng.randint(*sizes), rng.randint(*sizes)
    cells = [["x" if rng.random() < walls else "." for _ in range(width)] for _ in range(height)]
    for mark, place in zip("sg", rng.sample(range(height * width), 2), strict=True):
        cells[place // width][place % width] = mark
    return Map(["".join(row) for row in cells], 0)


def _has_kinds(of: Map, walks: list[str], kinds: int) -> bool:
    """Whether the walks are of at least so many kinds."""
    seen: set[tuple[int, ...]] = set()
    for moves in walks:
        seen.add(route(of, moves) if kinds > 1 else ())
        if len(seen) >= kinds:
            return True
    return False


def _uid(of: Map) -> str:
    return f"{FAMILY}/{of.budget}:{'/'.join(of.rows)}"


def _problem(of: Map, moves: str) -> Problem:
    lines = "\n".join(of.rows)
    return Problem(
        uid=_uid(of),
        prompt=f"grid {of.budget}\n{lines}\n",
        answer="",
        solution=f"{moves}\n",
        source=FAMILY,
        meta={"rows": list(of.rows), "budget": of.budget},
    )
