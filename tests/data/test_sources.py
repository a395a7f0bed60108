"""Reading problems: the layouts that are read unchanged, and the rows that are refused."""

import contextlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_file, load_problems
from extra_jax.errors import ExtraError

CHAT = [{"role": "user", "content": "What is 1+1?"}]
VERL = {
    "data_source": "openai/gsm8k",
    "prompt": CHAT,
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 7, "split": "train", "question": "What is 1+1?", "answer": "1+1=2 #### 2"},
}
REMEDIES = ("Give", "Keep", "Write", "Remove", "End", "Use", "Name", "Drop")


def jsonl(tmp_path, *rows):
    path = tmp_path / "set.jsonl"
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def parquet(tmp_path, *rows):
    path = tmp_path / "set.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


def test_own_jsonl_is_read_unchanged(tmp_path):
    full = {"id": "a/1", "problem": "1+1?", "answer": "2", "solution": "so 2", "source": "s", "meta": {"level": 3}}
    path = jsonl(tmp_path, full, {"uid": "b", "prompt": "2+2?", "answer": 4, "level": 1})
    assert load_file(path) == [
        Problem("a/1", "1+1?", "2", "so 2", "s", {"level": 3}),
        Problem("b", "2+2?", "4", None, "set", {"level": 1}),
    ]


def test_line_separators_inside_a_string_do_not_break_rows(tmp_path):
    path = jsonl(tmp_path, '{"problem": "a\u2028b\x85c", "answer": "1"}'.encode())
    assert load_file(path)[0].prompt == "a\u2028b\x85c"


def test_trl_columns_are_read_unchanged(tmp_path):
    path = jsonl(
        tmp_path,
        {"prompt": CHAT, "answer": "2", "solution": "1+1=2"},
        {"prompt": "1+1?", "solution": "$2$"},
    )
    chat, text = load_file(path)
    assert chat == Problem("set/1", tuple(CHAT), "2", "1+1=2", "set")
    assert text == Problem("set/2", "1+1?", "$2$", "$2$", "set")


def test_trl_columns_are_read_from_parquet(tmp_path):
    path = parquet(tmp_path, {"prompt": CHAT, "solution": "2", "__index_level_0__": 5})
    assert load_file(path) == [Problem("set/1", tuple(CHAT), "2", "2", "set")]


def test_verl_parquet_is_read_unchanged(tmp_path):
    bare = VERL | {"extra_info": {"index": 8, "split": "test", "solution": "2", "answer": None, "question": None}}
    first, second = load_problems(parquet(tmp_path, VERL, bare))
    assert first.uid == "openai/gsm8k/train/7"
    assert first.prompt == tuple(CHAT)
    assert (first.answer, first.solution, first.source) == ("2", "1+1=2 #### 2", "openai/gsm8k")
    assert first.meta["ability"] == "math"
    assert first.meta["reward_style"] == "rule"
    assert first.meta["extra_info"]["question"] == "What is 1+1?"
    assert (second.uid, second.solution) == ("openai/gsm8k/test/8", None)


def test_verl_rows_without_an_index_are_numbered(tmp_path):
    assert load_file(jsonl(tmp_path, VERL | {"extra_info": None}))[0].uid == "set/1"


def test_columns_can_be_renamed(tmp_path):
    path = jsonl(tmp_path, {"question": "1+1?", "final": "2", "prompt": "unused"})
    problem = load_problems(path, columns={"prompt": "question", "answer": "final"})[0]
    assert (problem.prompt, problem.answer, problem.meta) == ("1+1?", "2", {"prompt": "unused"})
    with pytest.raises(ExtraError, match="Did you mean 'answer'"):
        load_problems(path, columns={"anwser": "final"})


GOOD = {"problem": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("row", "key", "fault"),
    [
        ({"answer": "2"}, "problem", "missing"),
        ({"problem": " ", "answer": "2"}, "problem", "empty"),
        ({"problem": 3, "answer": "2"}, "problem", "a number instead of text"),
        ({"problem": "x"}, "answer", "missing"),
        ({"problem": "x", "solution": "2"}, "answer", "missing"),
        ({"problem": "x", "answer": ""}, "answer", "empty"),
        ({"problem": "x", "answer": 0.5}, "answer", "a number instead of text"),
        ({"problem": "x", "answer": True}, "answer", "a truth value instead of text"),
        ({"problem": "x", "answer": ["2", "3"]}, "answer", "a list instead of text"),
        (GOOD | {"solution": 2}, "solution", "a number instead of text"),
        (GOOD | {"source": {}}, "source", "an object instead of text"),
        (GOOD | {"meta": "m"}, "meta", "text instead of an object"),
        (GOOD | {"meta": {"level": 1}, "level": 2}, "level", "as a column and in 'meta'"),
        (GOOD | {"id": ""}, "id", "empty"),
        (GOOD | {"id": 1.5}, "id", "a number instead of text"),
        (GOOD | {"prompt": "1+1?"}, "prompt", "the row has 'problem' and 'prompt'"),
        ({"prompt": [], "answer": "2"}, "prompt", "an empty chat"),
        ({"prompt": ["hi"], "answer": "2"}, "prompt[0]", "text instead of a message"),
        ({"prompt": [{"role": "bot", "content": "x"}], "answer": "2"}, "prompt[0].role", "'bot' is no known role"),
        ({"prompt": [{"role": "user", "content": ""}], "answer": "2"}, "prompt[0].content", "empty"),
        ({"prompt": [{"role": "user", "content": [{}]}], "answer": "2"}, "prompt[0].content", "a list instead"),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "2"}], "answer": "2"}, "prompt", "ends with the role"),
        ({"prompt": [CHAT[0] | {"name": "bob"}], "answer": "2"}, "prompt[0].name", "a role and a content only"),
        (VERL | {"reward_model": {"style": "rule"}}, "reward_model.ground_truth", "missing"),
        (VERL | {"reward_model": {"ground_truth": {"target": 3}}}, "reward_model.ground_truth", "an object instead"),
        (VERL | {"reward_model": "rule"}, "reward_model", "text instead of a struct"),
        (VERL | {"prompt": None}, "prompt", "missing"),
        (VERL | {"data_source": None}, "data_source", "missing"),
    ],
)
def test_bad_rows_are_refused_with_file_row_key_and_remedy(tmp_path, row, key, fault):
    path = jsonl(tmp_path, {"problem": "fine", "answer": "1"}, row)
    with pytest.raises(ExtraError) as caught:
        load_problems(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, row 2, key '{key}': ")
    assert fault in message
    assert any(f". {word} " in message for word in REMEDIES), message


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not valid JSON"),
        (b'"x"', "not a JSON object"),
        (b'{"problem": "\xff", "answer": "1"}', "not valid JSON in UTF-8 .'utf-8'"),
        (b'{"problem": "\xed\xa0\x80", "answer": "1"}', "not valid JSON in UTF-8"),
        (b'{"problem": "x", "answer": "\\ud800"}', "not valid JSON in UTF-8 .*surrogates"),
        (b'{"uid": "\\udfff", "problem": "x", "answer": "1"}', "not valid JSON in UTF-8 .*surrogates"),
        (b'{"problem": "x", "answer": "1", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"problem": "x", "answer": ' + b"9" * 5000 + b"}", "not valid JSON in UTF-8"),
        ('{"problem": "x", "answer": "1"}'.encode("utf-16"), "not valid JSON in UTF-8"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number_and_blank_lines_count(tmp_path, line, fault):
    path = jsonl(tmp_path, GOOD, b" \r", line, GOOD)
    with pytest.raises(ExtraError, match=f"set.jsonl, row 3: {fault}"):
        load_file(path)


def test_a_byte_order_mark_and_blank_lines_are_harmless_and_rows_keep_their_line_numbers(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\n  \n" + json.dumps(GOOD).encode() + b"\n\n")
    assert [problem.uid for problem in load_file(str(path))] == ["set/1", "set/4"]
    path.write_bytes(b"\xef\xbb\xbf\n\n")
    with pytest.raises(ExtraError, match="has no rows"):
        load_file(str(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_pipe_a_folder_and_a_link_to_itself_are_refused(tmp_path, suffix):
    pipe, folder, loop = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "loop"))
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    for path, fault in ((pipe, "not an ordinary file"), (folder, "not an ordinary file"), (loop, "no such file")):
        with pytest.raises(ExtraError, match=fault):
            load_problems(str(path))


def test_a_damaged_page_of_a_parquet_file_is_named(tmp_path):
    path = parquet(tmp_path, *({"prompt": f"x{i}", "answer": str(i)} for i in range(5000)))
    content = bytearray(Path(path).read_bytes())
    content[200:400] = bytes(byte ^ 0xFF for byte in content[200:400])
    Path(path).write_bytes(content)
    with pytest.raises(ExtraError, match=r"set.parquet .*damaged.*Write it again"):
        load_file(path)


def test_published_layouts_give_golds_that_can_be_graded(tmp_path):
    worked = r"Let $n=3$. Then $n^2=9$, so \boxed{3} is no square and hence $\boxed{9}$."
    rows = [
        # openai/gsm8k; hendrycks/MATH; NuminaMath; Omni-MATH; OlympiadBench; DeepScaleR as verl's Parquet
        {"question": "1+1?", "answer": "1+1 = <<1+1=2>>2 apples.\n#### 1,002"},
        {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": worked},
        {"source": "olympiads", "problem": "1+1?", "solution": worked, "messages": CHAT},
        {"domain": ["Maths"], "difficulty": 2, "problem": "1+1?", "solution": "It is 2.", "answer": "2", "source": "x"},
        {"id": 3, "question": "1+1?", "solution": ["It is 2."], "final_answer": ["2"]},
        VERL | {"reward_model": {"ground_truth": ["34"], "style": "rule"}},
        {"prompt": "1+1?", "solution": worked},
        {"problem": "1+1?", "answer": r"The area is $\frac{1}{2}$, so the answer is $\boxed{\frac{1}{2}}$."},
    ]
    golds = []
    for row in rows:
        columns = {"answer": "final_answer", "solution": "none"} if "final_answer" in row else None
        golds.append(load_problems(jsonl(tmp_path, row), columns=columns)[0].answer)
    assert golds == ["1,002", "9", "9", "2", "2", "34", "9", r"\frac{1}{2}"]
    (problem,) = load_file(jsonl(tmp_path, rows[0]))
    assert (problem.prompt, problem.solution) == ("1+1?", rows[0]["answer"])


def test_a_question_beside_a_problem_is_one_more_column(tmp_path):
    (problem,) = load_file(jsonl(tmp_path, GOOD | {"question": "unused"}))
    assert (problem.prompt, problem.meta) == ("1+1?", {"question": "unused"})
    with pytest.raises(ExtraError, match=r"data\.columns=\{prompt: \.\.\.\}; there are query, answer"):
        load_file(jsonl(tmp_path, {"query": "1+1?", "answer": "2"}))


def test_equal_rows_of_a_verl_file_count_once_and_different_ones_are_refused(tmp_path, caplog):
    other = VERL | {"extra_info": VERL["extra_info"] | {"index": 8}}
    problems = load_file(parquet(tmp_path, *[VERL, other] * 50))
    assert [problem.uid for problem in problems] == ["openai/gsm8k/train/7", "openai/gsm8k/train/8"]
    assert "98 rows repeat another (row 3 is row 1); each problem is used once" in caplog.text
    with pytest.raises(ExtraError, match="row 2, key 'uid': 'openai/gsm8k/train/7' is the identity of row 1 too"):
        load_file(parquet(tmp_path, VERL, VERL | {"reward_model": {"style": "rule", "ground_truth": "3"}}))


def test_duplicate_uids_are_refused_with_both_rows(tmp_path):
    path = jsonl(tmp_path, GOOD | {"id": "a"}, GOOD | {"id": "b"}, GOOD | {"id": "a"})
    with pytest.raises(ExtraError, match=r"row 3, key 'uid': 'a' is the identity of row 1 too\. Remove one"):
        load_file(path)


def test_bad_parquet_rows_are_refused_too(tmp_path):
    with pytest.raises(ExtraError, match=r"set.parquet, row 2, key 'answer': missing"):
        load_file(parquet(tmp_path, GOOD, {"problem": "x", "answer": None}))
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(ExtraError, match="is not a Parquet file"):
        load_file(str(tmp_path / "text.parquet"))


def test_empty_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ExtraError, match="has no rows"):
        load_file(jsonl(tmp_path))
    with pytest.raises(ExtraError, match="there is no such file"):
        load_problems(str(tmp_path / "absent.parquet"))


def test_prompt_template_and_system_message(tmp_path):
    path = jsonl(tmp_path, {"problem": "Is {x} in \\frac{1}{2}?", "answer": "2"})
    template = "{problem}\n\nPut your final answer within \\boxed{{}}."
    text = "Is {x} in \\frac{1}{2}?\n\nPut your final answer within \\boxed{}."
    assert load_problems(path, prompt_template=template)[0].prompt == text
    assert load_problems(path, prompt_template=template, system="Think.")[0].prompt == (
        {"role": "system", "content": "Think."},
        {"role": "user", "content": text},
    )


def test_system_message_goes_before_a_chat(tmp_path):
    path = jsonl(tmp_path, {"prompt": CHAT, "answer": "2"})
    prompt = load_problems(path, system="Think.")[0].prompt
    assert prompt == ({"role": "system", "content": "Think."}, *CHAT)
    path = jsonl(tmp_path, {"prompt": list(prompt), "answer": "2"})
    with pytest.raises(ExtraError, match="has a system message already"):
        load_problems(path, system="Again.")
    with pytest.raises(ExtraError, match="Drop the template"):
        load_problems(path, prompt_template="{problem}!")


@pytest.mark.parametrize(
    "template", ["no field", "{problem} {answer}", "{problem}{problem}", "{problem} \\boxed{}", "{"]
)
def test_bad_templates_are_refused(tmp_path, template):
    with pytest.raises(ExtraError, match=r"Write \{problem\} once"):
        load_problems(jsonl(tmp_path, GOOD), prompt_template=template)


def test_limit_keeps_a_seeded_sample_in_file_order(tmp_path):
    path = jsonl(tmp_path, *({"id": i, "problem": "x", "answer": "1"} for i in range(100)))
    first, again, other = (load_problems(path, limit=10, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [int(p.uid) for p in first] == sorted(int(p.uid) for p in first)
    assert len({p.uid for p in first}) == 10
    assert max(int(p.uid) for p in first) > 20
    assert len(load_problems(path, limit=1000)) == 100


def test_tasks_come_through_the_same_door():
    problems = load_problems("countdown", split="test", seed=4, limit=5, numbers=(3, 3), max_number=9)
    assert [len(p.meta["numbers"]) for p in problems] == [3] * 5
    assert load_problems("chain", limit=3, prompt_template="Compute: {problem}")[0].prompt.startswith("Compute: chain ")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("countdwon", {}, "Did you mean 'countdown'"),
        ("data.csv", {}, "ends in .jsonl or .parquet"),
        ("countdown", {}, "say how many problems with `limit`"),
        ("countdown", {"limit": 0}, "limit is 0"),
        ("countdown", {"limit": 3, "max_numbr": 3}, "Did you mean 'max_number'"),
        ("chain", {"limit": 3, "count": 3}, "chain has no difficulty 'count'"),
        ("chain", {"limit": 3, "columns": {"answer": "x"}}, "has no columns"),
        ("chain", {"limit": 3, "system": " "}, "system prompt is blank"),
        ("set.jsonl", {"steps": (1, 2)}, "steps apply to countdown and chain only"),
        ("set.csv", {"numbers": (3, 4)}, "ends in .jsonl or .parquet"),
        ("set.jsonl", {"split": "test"}, "a file has no split 'test'"),
    ],
)
def test_options_without_effect_are_refused(source, options, message):
    with pytest.raises(ExtraError, match=message):
        load_problems(source, **options)


def test_hub_needs_the_optional_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraError, match="pip install datasets"):
        load_problems("hub:openai/gsm8k")


def test_hub_sets_are_read_through_datasets(monkeypatch):
    calls = []

    def load_dataset(name, config, split):
        calls.append((name, config, split))
        if split == "dev":
            raise ValueError("Unknown split")
        return [{"question": "1+1?", "answer": "2"}, {"question": "?", "answer": None}][: 2 if config == "bad" else 1]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    columns = {"prompt": "question"}
    problems = load_problems("hub:openai/gsm8k:main", split="test", columns=columns)
    assert problems == [Problem("openai/gsm8k/test/1", "1+1?", "2", None, "openai/gsm8k/test")]
    with pytest.raises(ExtraError, match=r"hub:openai/gsm8k:bad\[train\], row 2, key 'answer': missing"):
        load_problems("hub:openai/gsm8k:bad", columns=columns)
    with pytest.raises(ExtraError, match=r"\[dev\]: openai.gsm8k could not be loaded from the hub .Unknown split"):
        load_problems("hub:openai/gsm8k", split="dev")
    assert calls[0] == ("openai/gsm8k", "main", "test")
    assert calls[-1] == ("openai/gsm8k", None, "dev")


FUZZ = settings(deadline=None, derandomize=True, max_examples=70)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COLUMNS = st.sampled_from(
    ["id", "uid", "problem", "prompt", "question", "answer", "solution", "source", "meta", "reward_model", "extra_info"]
)


@FUZZ
@given(rows=st.lists(st.binary(max_size=40) | st.dictionaries(COLUMNS, JSON).map(lambda row: json.dumps(row).encode())))
def test_any_jsonl_is_read_or_refused(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"\n".join(rows))
    with contextlib.suppress(ExtraError):
        assert all(isinstance(problem.answer, str) for problem in load_problems(str(path)))


@FUZZ
@given(data=st.data())
def test_any_bytes_of_a_parquet_file_may_be_wrong(tmp_path_factory, data):
    rows = [VERL, VERL | {"prompt": [{"role": "user", "content": "x" * 300}], "extra_info": {"index": 8}}]
    path = Path(parquet(tmp_path_factory.getbasetemp(), *rows))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ExtraError):
        load_problems(str(path))


def test_the_data_room_and_its_graders_import_without_jax():
    rooms = "data.sources, extra_jax.data.tokenizer, extra_jax.reward.countdown, extra_jax.reward.chain"
    code = f"import sys, extra_jax.{rooms}; assert not {{'jax', 'transformers', 'grain'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
