"""Copies of benchmark problems: what counts as the same text, against slow definitions and hand-made pairs."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax import cli
from extra_jax.data.contamination import contamination, normal_form, shingles
from extra_jax.data.problem import Problem, prompt_text
from extra_jax.data.sources import load_file

LONG = "How many positive integers less than one thousand are divisible by neither two nor three nor seven?"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $1 + 1$?", "what is 1+1"),
        (r"Find $\left( \dfrac{1}{2} \right)$.", r"Find $(\frac{1}{2})$"),
        (r"$a_1, a_2, \ldots, a_n$ with $a \geqslant b$", r"$a_1,a_2,\cdots,a_n$ with $a \geq b$"),
        (r"Find the \textbf{sum}", "Find the sum"),
        (r"\begin{align*}x&=1\end{align*}", r"align* x = 1 align*"),
    ],
)
def test_one_problem_written_twice_has_one_normal_form(one, other):
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Compute $\tan 22.5^\circ.$", r"Compute $\tan 225^\circ$."),
        ("Find 3 - 2", "Find 3 + 2"),
        ("Find x_1", "Find x^1"),
        ("What is 5!", "What is 5"),
        ("Find the area. [asy]draw((0,0)--(1,1));[/asy]", "Find the area. [asy]draw((0,0)--(2,2));[/asy]"),
    ],
)
def test_different_problems_have_different_normal_forms(one, other):
    assert normal_form(one) != normal_form(other)


def test_shingles_are_runs_of_words_and_single_digits():
    text = r"Let $x_{12}$ be \left(one\right) [asy] a figure [/asy] of SIX words"
    words = ["let", "x", "1", "2", "be", "one", "of", "six", "words"]
    assert shingles(text) == {tuple(words[:8]), tuple(words[1:])}
    assert shingles("only seven words are in this one") == frozenset()


def problems(*texts, answer="1"):
    return [Problem(f"p{i}", text, answer) for i, text in enumerate(texts)]


def test_exact_and_near_copies_are_told_apart():
    train = problems(
        "unrelated words " * 10, LONG, LONG.replace("seven", "five"), LONG + " Give the answer as an integer."
    )
    matches = contamination(train, problems("another one", LONG.upper()))
    assert [(m.row, m.item, m.kind) for m in matches] == [(1, 1, "exact"), (2, 1, "near"), (3, 1, "near")]
    assert [m.same_answer for m in matches] == [True] * 3


def test_a_short_text_inside_a_long_one_is_near_only_from_eight_shingles():
    long = " ".join(f"word{chr(97 + i)}" for i in range(26)) + " " + " ".join(f"more{chr(97 + i)}" for i in range(26))
    fifteen, fourteen = (" ".join(long.split()[:n]) for n in (15, 14))
    assert len(shingles(fifteen)) == 8
    assert [m.kind for m in contamination(problems(fifteen), problems(long))] == ["near"]
    assert contamination(problems(fourteen), problems(long)) == []


def test_answers_are_compared_without_blanks_and_dollar_signs():
    (match,) = contamination([Problem("a", LONG, "$ 7 $")], [Problem("b", LONG, "7")])
    assert match.same_answer
    (match,) = contamination([Problem("a", LONG, "8")], [Problem("b", LONG, "7")])
    assert not match.same_answer


def test_of_a_chat_the_words_of_the_user_count():
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": LONG})
    assert prompt_text(chat, only="user") == LONG
    assert contamination([Problem("a", chat, "1")], problems(LONG))[0].kind == "exact"


texts = st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), min_size=1, max_size=4)


@given(texts, texts)
@settings(deadline=None)
def test_matches_are_those_of_the_definition(train, benchmark):
    expected = []
    for row, one in enumerate(train):
        for item, other in enumerate(benchmark):
            a, b = shingles(one), shingles(other)
            shorter = min(len(a), len(b))
            if normal_form(one) == normal_form(other):
                expected.append((row, item, "exact"))
            elif a & b and (len(a & b) / len(a | b) >= 0.5 or (shorter >= 8 and len(a & b) / shorter >= 0.8)):
                expected.append((row, item, "near"))
    assert [(m.row, m.item, m.kind) for m in contamination(problems(*train), problems(*benchmark))] == expected


def write(path, texts):
    rows = [{"id": f"{path.stem}/{i}", "problem": text, "answer": "1"} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_verb_counts_lists_and_writes_the_clean_rows(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", ["fine", LONG, LONG.replace("seven", "five"), "also fine"])
    bench = write(tmp_path / "bench.jsonl", [LONG, "nothing"])
    clean = str(tmp_path / "clean.jsonl")
    assert cli.main(["data", "contamination", train, bench, "--out", clean]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [bench, "2", "1", "1", "1", "0"]
    assert "train/1 ~ bench/0: exact, similarity 1.00" in lines
    assert f"{train}: 4 rows, 2 of them are in a benchmark or nearly so" in lines
    assert [problem.uid for problem in load_file(clean)] == ["train/0", "train/3"]
    assert cli.main(["data", "contamination", clean, bench]) == 0
    capsys.readouterr()
    cli.main(["data", "contamination", train, bench, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["flagged"], len(told["matches"])) == (4, 2, 2)


def test_a_row_that_is_there_twice_is_dropped_twice(tmp_path, capsys):
    def row(index, text):
        chat = [{"role": "user", "content": text}]
        reward, extra = {"ground_truth": "1"}, {"index": index}
        return {"data_source": "x", "prompt": chat, "reward_model": reward, "extra_info": extra}

    train, clean = tmp_path / "train.jsonl", tmp_path / "clean.jsonl"
    train.write_text("".join(json.dumps(row(*pair)) + "\n\n" for pair in [(0, LONG), (1, "fine"), (0, LONG)]))
    bench = write(tmp_path / "bench.jsonl", [LONG])
    assert cli.main(["data", "contamination", str(train), bench, "--out", str(clean)]) == 1
    assert [problem.uid for problem in load_file(str(clean))] == ["x/1"]
    assert cli.main(["data", "contamination", str(train), bench, "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path}: " in (said := capsys.readouterr().err)
    assert "Is a directory" in said
