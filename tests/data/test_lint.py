"""Linting: every planted fault is found with its row, and a clean file has none."""

import json

import pytest

from extra_jax import cli
from extra_jax.data.lint import Duplicates, leaked, lint
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.errors import ExtraError

CLEAN = [
    {
        "id": "a",
        "problem": "What is $1 + 1$?",
        "answer": "2",
        "solution": "One and one make 2, as everybody has known.",
    },
    {"id": "b", "problem": "What is the half of one?", "answer": r"\frac{1}{2}"},
    {"id": "c", "problem": "Write five.", "answer": 5},
]


def write(tmp_path, *rows):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*CLEAN, *rows]))
    return str(path)


def found(tmp_path, *rows, **checks):
    return [(finding.row, finding.kind) for finding in lint(write(tmp_path, *rows), **checks).findings]


def test_a_clean_file_has_no_findings(tmp_path):
    assert found(tmp_path) == []


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "set.jsonl").write_text("\n")
    with pytest.raises(ExtraError, match=r"set\.jsonl: holds no rows"):
        lint(str(tmp_path / "set.jsonl"))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"problem": "q", "answer": "  "}, "empty_answer"),
        ({"problem": "q"}, "empty_answer"),
        ({"problem": "", "answer": "1"}, "unreadable"),
        ({"problem": "q", "answer": 1.5}, "unreadable"),
        ({"id": "a", "problem": "q", "answer": "1"}, "duplicate_uid"),
        ({"problem": "what is 1+1", "answer": "2"}, "duplicate"),
        ({"problem": "what is 1+1", "answer": "3"}, "conflict"),
        ({"problem": r"Is it \boxed{ 7 }?", "answer": "7"}, "leaked"),
        ({"reward_model": {"ground_truth": ""}, "prompt": "q", "data_source": "x"}, "empty_answer"),
    ],
)  # fmt: skip
def test_a_fault_is_found_with_its_row(tmp_path, row, kind):
    assert found(tmp_path, {"problem": "another one", "answer": "1"}, row) == [(5, kind)]


def test_checks_of_the_grader_are_asked_about_every_answer(tmp_path):
    def gold_problems(golds):
        return ["not read" if "frac" in gold else "" for gold in golds]

    assert found(tmp_path, gold_problems=gold_problems) == [(2, "unparseable_gold")]
    rows = [{"problem": "What is the half of one?", "answer": answer} for answer in ("0.5", "0.6", "\\frac{1} {2}")]
    report = lint(write(tmp_path, *rows), same_answers=lambda pairs: [other == "0.5" for _, other in pairs])
    assert [finding.kind for finding in report.findings] == ["duplicate", "conflict", "duplicate"]
    assert report.findings[0].detail == r"of row 2; its answer is written '\\frac{1}{2}' there, '0.5' here"
    assert report.duplicates == Duplicates(groups=1, surplus=3, differing=1, conflicting=1)


def test_the_forms_that_prompts_ask_for_are_tried_where_the_answer_is_read(tmp_path):
    checks = {
        "gold_problems": lambda golds: ["not read" if "frac" in gold else "" for gold in golds],
        "form_problems": lambda problems: ["not read" if "five" in problem.prompt else "" for problem in problems],
    }
    assert found(tmp_path, **checks) == [(2, "unparseable_gold"), (3, "unearnable")]


def test_long_prompts_are_measured_with_the_tokenizer(tmp_path):
    tokenizer = load_tokenizer("tiny")
    path = tmp_path / "tiny.jsonl"
    path.write_text('{"problem": "1+2\\n", "answer": "3"}\n{"problem": "1+2+3+4+5\\n", "answer": "15"}\n')
    longest = len(tokenizer.encode_prompt("1+2+3+4+5\n"))
    assert lint(str(path), tokenizer=tokenizer, max_prompt_length=longest).findings == ()
    (finding,) = lint(str(path), tokenizer=tokenizer, max_prompt_length=longest - 1).findings
    assert (finding.row, finding.kind) == (2, "long_prompt")
    assert finding.detail == f"{longest} tokens; {longest - 1} are allowed"


@pytest.mark.parametrize(
    ("prompt", "answer", "leaks"),
    [
        ("It is \\boxed{12}, is it not?", "12", True),
        ("Put your answer in \\boxed{}.", "12", False),
        ("Why?\n#### 12", "12", True),
        ("Why? The answer is 12.", "12", True),
        ("Answer: **12**", "12", True),
        ("If there is none, the answer is 120.", "12", False),
        ("Take 12 apples.", "12", False),
    ],
)
def test_a_leak_is_an_answer_marked_as_one(prompt, answer, leaks):
    assert bool(leaked(Problem("p", prompt, answer))) == leaks


def test_a_solution_in_the_prompt_is_a_leak():
    solution = "First add the two numbers, then divide the sum by three and round it down."
    assert leaked(Problem("p", f"Add up. Hint: {solution}", "12", solution)) == "it holds the solution"
    assert leaked(Problem("p", "Add the two numbers.", "12", solution)) == ""


def test_the_verb_uses_the_maths_grader_and_its_exit_status_tells(tmp_path, capsys):
    rows = [
        {"problem": "Half of one, what is it?", "answer": "\\frac12"},
        {"problem": "half of one what is it", "answer": "0.5"},
        {"problem": "half of one what is it", "answer": "2"},
        {"problem": "How?", "answer": "\\frac{1}{"},
    ]
    path = write(tmp_path, *rows)
    assert cli.main(["data", "lint", path]) == 1
    text = capsys.readouterr().out
    assert "unparseable_gold: 1 row" in text
    assert "row 7: " in text
    assert "a right answer can be rewarded in 6 of 7 rows" in text
    assert "duplicate: 1 row" in text
    assert "conflict: 1 row" in text
    assert "duplicates: 1 problems, 2 surplus rows; of 1 problems the answers differ as text, of 1 the grader" in text
    assert text.splitlines()[-1] == f"{path}: 7 rows, 3 findings"
    assert cli.main(["data", "lint", path, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [finding["row"] for finding in told["findings"]] == [5, 6, 7]
    assert cli.main(["data", "lint", write(tmp_path)]) == 0
    capsys.readouterr()
    assert cli.main(["data", "lint", path, "--tokenizer", "tiny"]) == 2
    assert "give both, or neither" in capsys.readouterr().err
    assert cli.main(["data", "lint", str(tmp_path / "absent.jsonl")]) == 2


def test_columns_of_other_names(tmp_path, capsys):
    path = tmp_path / "set.jsonl"
    path.write_text('{"task": "What is 2 + 3?", "gold": "5"}\n')
    assert cli.main(["data", "lint", str(path)]) == 1
    assert "--columns: uid=YOURS, prompt=YOURS, answer=YOURS" in capsys.readouterr().out
    assert cli.main(["data", "lint", str(path), "--columns", "prompt=task", "answer=gold"]) == 0
    assert cli.main(["data", "lint", str(path), "--columns", "problem=task"]) == 2
    assert "--columns problem=task: give NAME=COLUMN with a NAME of uid, prompt" in capsys.readouterr().err
