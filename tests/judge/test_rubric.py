"""Rubrics: what the judge is asked, and that text never becomes template."""

import pytest

from extra_jax.errors import ExtraError
from extra_jax.judge.rubric import load_rubric, rubric_names

NAMES = rubric_names()


@pytest.mark.parametrize("name", NAMES)
def test_problem_and_reference_come_before_the_trace_in_every_domain(name):
    rubric = load_rubric(name)
    for domain in rubric.system:
        system, user = rubric.messages(domain, "PROBLEM", "REFERENCE", "TRACE", 2, 3)
        assert (system["role"], user["role"]) == ("system", "user")
        marks = ["PROBLEM", "REFERENCE", "TRACE"] if rubric.reference else ["PROBLEM", "TRACE"]
        places = [user["content"].index(mark) for mark in marks]
        assert places == sorted(places)
        assert user["content"].rpartition("\n--- ")[0 if name.endswith("_v2") else 2].endswith("TRACE"), (
            "questions about one problem share everything before the trace"
        )
        assert "Score:" in system["content"]
        assert "{" not in system["content"] + user["content"]
        assert ("REFERENCE" in user["content"]) == rubric.reference


def test_the_rubrics_that_are_promised_exist():
    assert {
        "outcome_paper_v1",
        "outcome_strict_v1",
        "outcome_noref_v1",
        "process_prefix_v1",
        "process_segment_v1",
    } <= set(NAMES)
    for name in NAMES:
        rubric = load_rubric(name)
        assert set(rubric.system) == {"math", "science", "code"}
        if rubric.no_reference is not None:
            twin = load_rubric(rubric.no_reference)
            assert (twin.reference, twin.unit) == (False, rubric.unit)


def test_braces_in_a_problem_or_a_trace_stay_text():
    rubric = load_rubric("outcome_strict_v1")
    user = rubric.messages("", "x {trace} {reference}", "r {problem}", r"\frac{1}{2} {problem}")[1]["content"]
    assert "x {trace} {reference}" in user
    assert user.endswith(r"\frac{1}{2} {problem}")


def test_the_hash_sees_every_text_that_the_judge_is_told(tmp_path):
    rubric = load_rubric("outcome_strict_v1")
    assert len({rubric.sha(domain) for domain in rubric.system}) == 3
    file = tmp_path / "mine.toml"
    source = 'unit = "rollout"\nreference = false\nuser = "{problem} {trace}"\n[system]\nmath = "a"\n'
    shas = set()
    for text in (source, source.replace('"a"', '"b"'), source.replace("{problem} ", "{problem}  ")):
        file.write_text(text)
        shas.add(load_rubric(str(file)).sha())
    assert len(shas) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{trace}", "{tracy}"), "unknown field {tracy}"),
        (("{problem} ", ""), "the field {problem} is missing"),
        (('"rollout"', '"token"'), "Input should be 'rollout', 'prefix' or 'segment' (got 'token')"),
        (("reference = false", "reference = true"), "the field {reference} is missing"),
        (("reference = false", ""), "reference: Field required"),
        (('unit = "rollout"', 'unit = "rollout"\nscore = 1'), "score: unknown key"),
        (("unit = ", "unit : "), "not valid TOML"),
    ],
)
def test_a_faulty_rubric_is_refused_with_file_and_key(tmp_path, change, message):
    file = tmp_path / "mine.toml"
    source = 'unit = "rollout"\nreference = false\nuser = "{problem} {trace}"\n[system]\nmath = "a"\n'
    file.write_text(source.replace(*change))
    with pytest.raises(ExtraError, match=r"mine\.toml") as error:
        load_rubric(str(file))
    assert message in str(error.value)


def test_a_typo_in_a_name_names_the_nearest():
    with pytest.raises(ExtraError, match="did you mean 'outcome_strict_v1'"):
        load_rubric("outcome_strikt_v1")


def test_what_a_rubric_lacks_is_said():
    with pytest.raises(ExtraError, match="no instructions for the domain 'poetry', only for math, science"):
        load_rubric("outcome_paper_v1").messages("poetry", "p", "r", "t")
    with pytest.raises(ExtraError, match="has none: 'p'"):
        load_rubric("outcome_paper_v1").messages("math", "p", None, "t")
