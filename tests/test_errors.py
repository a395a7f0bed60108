"""What is shown to a person holds no secret and moves no cursor."""

import json

import pytest

from extra_jax.errors import printable, redact

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host:8000/v1/chat",
        f"http://{SECRET}@host/v1",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"Proxy-Authorization: Basic {SECRET}",
        f"api_key={SECRET}",
        f"judge.extra_body={{api_key: {SECRET}}}",
        json.dumps({"extra_body": {"OPENAI_API_KEY": SECRET}}),
        f"x-api-key: {SECRET}",
        f"password: '{SECRET}'",
        f"https://host/v1?api-key={SECRET}&n=1",
        f"hf_token: {SECRET}",
    ],
)
def test_what_stands_where_secrets_stand_is_hidden(text):
    shown = redact(text)
    assert SECRET not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "key", ["sk-proj-abcdEFGH12345678", "hf_abcdefghijklmnop", "ghp_abcdefghijklmnopqrst", "AKIAIOSFODNN7EXAMPLE"]
)
def test_keys_of_known_forms_are_hidden_anywhere(key):
    assert redact(f"the server said: wrong key {key}.") == "the server said: wrong key ***."


def test_a_secret_of_the_environment_is_hidden_anywhere(monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", SECRET)
    monkeypatch.setenv("KEY_SHORT", "abc")
    assert redact(f"no model of {SECRET} here, abc") == "no model of *** here, abc"


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=2048, token_truncate, tokens: 12",
        "judge.api_key_env=MY_JUDGE_KEY",
        "http://localhost:8000/v1: connection refused",
        "api_key: null",
        "step 3 · reward 0.5 · tok/s 12",
        "a secretary of state, mail a@b.example",
        "disk-skip-something-long",
    ],
)
def test_everything_else_is_left_alone(text):
    assert redact(text) == text


def test_what_acts_on_a_terminal_becomes_visible():
    assert printable("\x1b]0;title\x07\x1b[31mred\r\x9b2J\x7f") == "\\x1b]0;title\\x07\\x1b[31mred\\r\\x9b2J\\x7f"
    assert printable("a\u202eb\u2066c\u2028d\ud800") == "a\\u202eb\\u2066c\\u2028d\\ud800"
    plain = "lines\n\ttabs, ünïcödé, 漢字, 👩‍🔬, עברית, [red]"
    assert printable(plain) == plain
