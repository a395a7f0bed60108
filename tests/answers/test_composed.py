"""Composed answers, whose verdict is known by construction: values x spellings x wrappers x what stands behind them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.answers.extract import gold_answer, last_answer
from extra_jax.answers.verify import gold_problem, verify
from extra_jax.reward.math import grade_math

FEW = settings(max_examples=150, deadline=None, derandomize=True)

small = st.integers(2, 97)


@st.composite
def values(draw):
    """Gold, other spellings of it, another value of the same kind, and whether it is one number."""
    a, b = sorted(draw(st.lists(small, min_size=2, max_size=2, unique=True)))
    c = draw(small.filter(lambda c: c not in (a, b)))
    kind = draw(
        st.sampled_from(["integer", "fraction", "root", "pair", "interval", "set", "list", "expression", "vector"])
    )
    match kind:
        case "integer":
            n = a * 1000 + b
            return (
                str(n),
                [f"{n}.0", f"{n // 1000},{n % 1000:03}", f"{n // 1000}{{,}}{n % 1000:03}", f"+{n}"],
                str(n + c),
                True,
            )
        case "fraction":
            p, q = a * 101, 101 * b + 1
            spelled = [rf"\dfrac{{{p}}}{{{q}}}", f"{p}/{q}", rf"\frac{{{3 * p}}}{{{3 * q}}}", rf"\frac {{{p}}} {{{q}}}"]
            return rf"\frac{{{p}}}{{{q}}}", spelled, rf"\frac{{{p}}}{{{q + c}}}", True
        case "root":
            spelled = [rf"{a} \sqrt{{7}}", rf"\sqrt{{7}} \cdot {a}", rf"\sqrt{{{7 * a * a}}}", rf"{a}\cdot 7^{{1/2}}"]
            return rf"{a}\sqrt{{7}}", spelled, rf"{a + c}\sqrt{{7}}", True
        case "pair":
            return f"({a}, {b})", [rf"\left({a},{b}\right)", f"({a}.0,\\,{b})"], f"({a}, {b + c})", False
        case "vector":
            rows = rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}"
            return rows, [rf"\begin{{bmatrix}} {a} \\ {b} \end{{bmatrix}}"], rows.replace(str(b), str(b + 100)), False
        case "interval":
            return (
                f"[{a}, {b})",
                [rf"\left[{a},{b}\right)", rf"x \in [{a},{b})", rf"{a} \le x < {b}"],
                f"[{a}, {b + c})",
                False,
            )
        case "set":
            return (
                rf"\{{{a}, {b}\}}",
                [rf"\{{{b}, {a}\}}", rf"\left\{{{a},{b}\right\}}"],
                rf"\{{{a}, {b + 100}\}}",
                False,
            )
        case "list":
            return (
                f"{a}, {b}",
                [f"{b},{a}", rf"{a} \text{{ and }} {b}", rf"x={a} \text{{ or }} x={b}"],
                f"{a}, {b + 100}",
                False,
            )
    return f"{a}n+{c}", [f"{c}+{a}n", rf"{a}\cdot n + {c}", f"f(n) = {a}n+{c}"], f"{a}n-{c}", False


WRAPPERS = [
    "{}",
    "${}$",
    r"\({}\)",
    r"\displaystyle {}",
    r"\text{{The answer is }} {}",
    "Thus ${}$ is the answer.",
    "**{}**",
    " {} .",
]
HARMLESS = [
    "{}", r"{} \text{{ since }} p > 0", r"{} \quad (\text{{because }} p > 0)", r"{} \text{{ (exact value)}}",
    r"{} \text{{ where }} p \ge 1", r"{} \text{{ as required}}",
]  # fmt: skip
HEDGES = [
    r"{} \text{{ or }} {}", r"{} \text{{ or maybe }} {}", r"{} \text{{, but it could be }} {}",
    r"{} \text{{ (or }} {})", r"{} \text{{ if }} p > 0, \text{{ otherwise }} {}",
    r"{} \text{{ for odd }} p, {} \text{{ for even }} p", "{}; {}",
    r"\text{{either }} {} \text{{ or }} {}", r"{} \ne {}", r"{} \text{{ unless it is }} {}", r"{} \text{{ and }} {}",
    r"\begin{{cases}} {} & p > 0 \\ {} & p \le 0 \end{{cases}}", r"{} \quad {}", "{}, {}", r"{} = {}",
    r"{} \text{{ when }} p = 1 \text{{ and }} {} \text{{ when }} p = 2", r"\text{{perhaps }} {}, \text{{ perhaps }} {}",
    r"\text{{not }} {}, \text{{ rather }} {}", r"{} \text{{, or else }} {}", r"{} \text{{ / }} {}",
]  # fmt: skip


@FEW
@given(values(), st.data())
def test_another_spelling_is_right_and_another_value_wrong(value, data):
    gold, spellings, other, _ = value
    wrap = data.draw(st.sampled_from(WRAPPERS)).format
    behind = data.draw(st.sampled_from(HARMLESS)).format
    for text in [gold, *spellings]:
        assert verify(gold, wrap(behind(text)))[0] == "correct", wrap(behind(text))
    assert verify(gold, wrap(behind(other)))[0] == "wrong", wrap(behind(other))


@FEW
@given(values(), st.sampled_from(HEDGES), st.sampled_from(WRAPPERS), st.booleans(), st.data())
def test_an_answer_that_hedges_is_wrong(value, hedge, wrapper, other_first, data):
    gold, spellings, other, _ = value
    text = data.draw(st.sampled_from([gold, *spellings]))
    answer = wrapper.format(hedge.format(*((other, text) if other_first else (text, other))))
    assert verify(gold, answer)[0] == "wrong", (gold, answer)


SPACES = ["", " ", r"\quad ", r"\ ", r"\,", r"\;", r"\qquad ", "~"]
WORDS = [
    ",",
    ";",
    r"\text{and}",
    r"\text{ or }",
    r"\textrm{and}",
    r"\mathrm{~and~}",
    r"\text{ as well as }",
    "&",
    "and",
]
BREAKS = [". Wait, ", r"\text{ so }", "\n\nThen ", r" \Rightarrow ", " + ", r"\text{ but not }", ". "]


@FEW
@given(values(), st.sampled_from(SPACES), st.sampled_from(WORDS), st.sampled_from(SPACES), st.sampled_from(BREAKS))
def test_boxes_joined_in_any_way_are_one_answer(value, left, word, right, stop):
    gold, _, other, _ = value
    both = rf"\[\boxed{{{gold}}}{left}{word}{right}\boxed{{{other}}}\]"
    assert last_answer(both).count == 2, both
    assert grade_math(gold, both).verdict == grade_math(other, both).verdict == "wrong"
    assert grade_math(rf"\boxed{{{other}}} and \boxed{{{gold}}}", both).verdict == "correct"
    apart = rf"\[\boxed{{{other}}}{stop}\boxed{{{gold}}}\]"
    assert last_answer(apart).count == 1, apart
    assert grade_math(gold, apart).verdict == "correct"


SOLUTIONS = [
    r"Let $n=3$. Then $n^2=9$, and hence $\boxed{{{}}}$.", "We compute 3*2=<<3*2=6>>6 first.\nSo it is 5.\n#### {}",
    r"First \boxed{{7}}. But that is wrong. Hence \[\boxed{{{}}}\] as claimed.", r"\boxed{{{}}}", "{}",
]  # fmt: skip


@FEW
@given(values(), st.sampled_from(SOLUTIONS))
def test_a_worked_solution_is_worth_its_answer(value, solution):
    gold, spellings, other, _ = value
    worked = solution.format(gold)
    assert gold_answer(worked) == gold
    assert gold_problem(worked) == ""
    assert verify(worked, spellings[0])[0] == "correct"
    assert verify(worked, other)[0] == "wrong"
    if "boxed" in solution and solution != r"\boxed{{{}}}":
        prose = worked.replace("boxed", "mathbf")
        assert gold_problem(prose) != ""
        assert verify(prose, gold)[0] == "gold_unparseable"
