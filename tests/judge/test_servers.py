"""Recorded answers of servers, played over real HTTP: the row that each gives, and what the person reads."""

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.config import JudgeConfig
from extra_jax.data.tasks import chain
from extra_jax.errors import ExtraError
from extra_jax.judge import run, store
from extra_jax.judge.answer import Completion, Failure, read_answer
from extra_jax.judge.replies import ReplyCache

from . import recorded
from .recorded import ANSWERS, LONG, REFUSED, TOO_LONG, UNREADABLE, Recorded
from .stores import POLICY, rollout_row

ALL = [*ANSWERS, *UNREADABLE, *TOO_LONG, *REFUSED]


@pytest.fixture(scope="module")
def server():
    with recorded.played(ALL) as url:
        yield url


@pytest.fixture(scope="module")
def one_question(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("one"), ["a trace\n"])


def written(folder: Path, texts: list[str]) -> Path:
    problem = chain.generate(1, seed=0, split="train")[0]
    store.write_rollouts(
        folder, store.part_name(0, POLICY, 0), [[rollout_row(problem, i, text) for i, text in enumerate(texts)]]
    )
    return folder


def asked(url: str, **changes) -> JudgeConfig:
    usual = {"endpoint": url, "model": "m", "backoff": 0.0, "retries": 1, "parse_retries": 0}
    return JudgeConfig(**usual | changes)


def rows_of(folder: Path) -> list[dict]:
    (name,) = store.judges(folder)
    parts = store.parts(folder, f"scores/{name}")
    return [row for part in parts for row in part.read()]


@pytest.mark.parametrize("answer", [*ANSWERS, *UNREADABLE], ids=str)
def test_the_row_of_each_answer(tmp_path, server, one_question, answer: Recorded):
    folder = shutil.copytree(one_question, tmp_path / "store")
    tally = run.judge(folder, asked(f"{server}/{ALL.index(answer)}/v1"))
    (row,) = rows_of(folder)
    assert (row["status"], row["score"]) == answer.row
    assert answer.words in str(tally)
    assert "\x1b" not in str(tally)
    with ReplyCache(folder / "replies") as cache:
        assert len(cache) == (answer.row[0] != "transport"), "what cannot be read is no answer"


@pytest.mark.parametrize("answer", TOO_LONG, ids=str)
def test_one_question_that_does_not_fit_is_one_row(tmp_path, server, answer: Recorded):
    folder = written(tmp_path, ["one\n", LONG, "three\n"])
    tally = run.judge(folder, asked(f"{server}/{ALL.index(answer)}/v1", concurrency=1))
    assert [row["status"] for row in rows_of(folder)] == ["ok", "too_long", "ok"]
    assert answer.words in str(tally)


def test_an_unknown_refusal_of_one_question_does_not_end_the_run(tmp_path):
    answer = Recorded("any", "new words", 400, recorded.error("Das passt nicht."), every=False)
    folder = written(tmp_path, [LONG, "two\n", "three\n"])
    with recorded.played([answer]) as url:
        tally = run.judge(folder, asked(f"{url}/0/v1", concurrency=1))
    assert [row["status"] for row in rows_of(folder)] == ["transport", "ok", "ok"]
    assert "Das passt nicht." in str(tally)


@pytest.mark.parametrize("answer", REFUSED, ids=str)
def test_what_refuses_everything_ends_the_run_with_the_words_and_the_remedy(tmp_path, server, one_question, answer):
    folder = shutil.copytree(one_question, tmp_path / "store")
    with pytest.raises(ExtraError, match="refuses requests for model=m") as error:
        run.judge(folder, asked(f"{server}/{ALL.index(answer)}/v1", retries=5))
    assert answer.words in str(error.value)
    assert "sk-" not in str(error.value)


def test_a_url_without_v1_is_named(server, one_question):
    for url, remedy in ((f"{server}/", f"{server}/v1"), (f"{server}/0/v1/chat/completions", f"{server}/0/v1")):
        with pytest.raises(ExtraError, match=rf"status 404.*\nGive endpoint={remedy}$"):
            run.judge(one_question, asked(url))


def test_expectation_over_http_is_read_at_the_digit_and_one_reply_without_log_probabilities_is_one_row(tmp_path):
    text = "Step 2 uses 𝑥.\nScore: 4"

    def entry(token: str, **others: float) -> dict:
        top = {token: -0.05, **others}
        return {"token": token, "logprob": -0.05, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}

    odd = {"5": -3.0, "1": -3.0}
    tokens = [entry(t) for t in ("Step 2 uses ", "\ufffd", "\ufffd", "\ufffd", ".\n", "Score", ":")]
    tokens += [entry(" ", **odd), entry("4", **{"3": -3.0})]
    body = recorded.completion(text)
    body["choices"][0]["logprobs"] = {"content": tokens}
    weights = {4: math.exp(-0.05), 3: math.exp(-3.0)}
    expected = sum(k * w for k, w in weights.items()) / sum(weights.values())
    good = Recorded("vLLM", "logprobs", 200, body)
    none = Recorded("any", "no logprobs", 200, recorded.completion("Score: 4"))
    refusal = Recorded("any", "refusal", 200, recorded.completion(""))
    with recorded.played([good, none, refusal]) as url:
        for place, (texts, outcome) in enumerate([(["a\n"], ("ok", expected)), ([], None), (["a\n"], ("parse", None))]):
            config = asked(f"{url}/{place}/v1", scoring="expectation")
            folder = written(tmp_path / str(place), texts or ["a\n"])
            if outcome is None:
                with pytest.raises(ExtraError, match="returns no log-probabilities"):
                    run.judge(folder, config)
            else:
                run.judge(folder, config)
                (row,) = rows_of(folder)
                assert (row["status"], row["score"]) == (outcome[0], outcome[1] and pytest.approx(outcome[1]))


def test_parameters_can_be_left_out_and_renamed(tmp_path, monkeypatch):
    from extra_jax.judge.endpoint import Endpoint

    def sent(**changes):
        config = asked("http://localhost:1/v1", **changes)
        return Endpoint(config)._body([], {"max_tokens": 2048, "top_p": 1.0, "temperature": 0.0, "seed": 3})

    assert sent() == {"model": "m", "messages": [], "max_tokens": 2048, "top_p": 1.0, "temperature": 0.0, "seed": 3}
    nothing = sent(extra_body=dict.fromkeys(("max_tokens", "top_p", "temperature", "seed")))
    assert nothing == {"model": "m", "messages": []}
    new = sent(extra_body={"max_completion_tokens": 9, "temperature": 1})
    assert new == {"model": "m", "messages": [], "max_completion_tokens": 9, "top_p": 1.0, "temperature": 1, "seed": 3}
    mistral = sent(extra_body={"random_seed": 100})
    assert (mistral["random_seed"], "seed" in mistral) == (103, False), "the samples of a question stay different"


def test_an_unreadable_cached_reply_is_asked_again(tmp_path, server, one_question):
    folder = shutil.copytree(one_question, tmp_path / "store")
    config = asked(f"{server}/0/v1")
    run.judge(folder, config)
    file = folder / "replies" / "replies.jsonl"
    good = json.loads(file.read_text())
    for poison in ({"text": [{"type": "text", "text": "Score: 4"}]}, {"text": None}, {"prompt_tokens": [1]}):
        file.write_text('junk\n{"key": "junk"}\n' + json.dumps(good | poison) + "\n")
        shutil.rmtree(folder / "scores")
        assert run.judge(folder, config).requests == 1
        assert rows_of(folder)[0]["score"] == 4.0
    shutil.rmtree(folder / "scores")
    assert run.judge(folder, config).requests == 0, "the later line of a question counts"


def test_an_endless_answer_is_not_read(tmp_path, one_question):
    folder = shutil.copytree(one_question, tmp_path / "store")
    answer = Recorded("any", "big", 200, recorded.completion("x" * (4 << 20) + "\nScore: 3"))
    with recorded.played([answer]) as url:
        tally = run.judge(folder, asked(f"{url}/0/v1", max_tokens=64, retries=0))
    assert tally.statuses == {"transport": 1}
    assert "longer than 1,114,112 bytes" in str(tally)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100_000


SECRET = "key-0123456789-secret"


def test_a_key_is_stripped_and_is_nowhere_but_in_the_request(tmp_path, monkeypatch, one_question, capfd):
    folder = shutil.copytree(one_question, tmp_path / "store")
    monkeypatch.setenv("BLANKY", f" {SECRET}\n")
    echo = Recorded("any", "echo", 200, recorded.completion(f"You sent {SECRET}.\nScore: 4"))
    told = Recorded("any", "error", 500, recorded.error(f"key {SECRET} is slow"))
    with recorded.played([echo, told]) as url:
        assert run.judge(folder, asked(f"{url}/0/v1", api_key_env="BLANKY")).statuses == {"ok": 1}
        tally = run.judge(folder, asked(f"{url}/1/v1", api_key_env="BLANKY", model="other"))
    assert "key *** is slow" in str(tally)
    monkeypatch.setenv("BLANKY", "two words")
    with pytest.raises(ExtraError, match="holds is no key"):
        run.judge(folder, asked("http://localhost:1/v1", api_key_env="BLANKY"))
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "override",
    [
        f"endpoint=http://user:{SECRET}@127.0.0.1:9/v1",
        f"endpoint=http://127.0.0.1:9/v1?api_key={SECRET}",
        f"api_key_env={SECRET}",
        "api_key_env=hf_abcdefghijklmnop",
        f"extra_body={{api_key: {SECRET}}}",
        f"extra_body={{metadata: {{list: [{{Authorization: {SECRET}}}]}}}}",
        "extra_body={user: sk-abcdefghijklmnop}",
    ],
)
def test_a_secret_in_the_settings_is_refused_and_not_repeated(tmp_path, override, capsys, one_question):
    from extra_jax import cli

    assert cli.main(["judge", str(one_question), "model=m", override]) == 2
    shown = "".join(capsys.readouterr())
    assert SECRET not in shown
    assert "abcdefghijklmnop" not in shown
    assert "api_key_env" in shown


def test_settings_that_only_look_like_secrets_are_taken():
    body = {"stop_token": "<|im_end|>", "skip_special_tokens": False, "max_tokens": None, "user": "team"}
    assert JudgeConfig(extra_body=body, api_key_env="OPENAI_API_KEY").extra_body == body


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "message", "content", "usage", "error", "code", "type", "text", "finish_reason"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from([200, 400, 404, 429, 500]),
)
def test_any_json_is_a_completion_or_a_failure_with_words(body, status):
    answer = read_answer(status, json.dumps(body), {})
    assert isinstance(answer, Completion | Failure)
    assert isinstance(answer, Completion) or answer.words


def test_the_servers_of_the_documentation_are_those_of_the_table():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "judge.md").read_text()
    for answer in ALL:
        assert answer.server in ("any", "proxy", "nginx") or answer.server in page, answer.server
