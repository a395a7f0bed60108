"""The one exception that a user is meant to read, and text that is safe to show to a person."""

import os
import re

_KEY_NAME = r"(?:api[-_]?key|apikey|secret|passw(?:or)?d|(?:access|auth|bearer|refresh|hf)[-_]?token|credentials?)"
_SECRETS = (
    # https://name:password@host
    (re.compile(r"(?<=://)[^\s/@]+@"), "***@"),
    # Authorization: Bearer X
    (
        re.compile(
            r"(?i)\b(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token) )?|bearer )"
            r"(?!\*|bearer |basic |token )[^\s\"',;}]{6,}"
        ),
        r"\1***",
    ),
    # api_key=X, "password": "X"; a word that goes on (api_key_env, secretary) is another name
    (re.compile(rf"(?i)([\w-]*{_KEY_NAME}[\"']?\s*[:=]\s*[\"']?)(?!\*|None\b|null\b)[^\s\"',;&}}]+"), r"\1***"),
    # keys that say themselves what they are: OpenAI, Hugging Face, GitHub, AWS, Google, Slack, JSON web tokens
    (
        re.compile(
            r"\b(?:sk-[\w-]{8,}|hf_\w{8,}|gh[opsu]_\w{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{20,}"
            r"|xox[abp]-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
        ),
        "***",
    ),
)
_SECRET_VARIABLE = re.compile(r"(?i)key|token|secret|passw")
_SHORTEST_SECRET = 8

# Control characters but newline and tab, marks that turn the direction of text, line separators, half surrogate pairs.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class ExtraError(Exception):
    """Bad input or an impossible request, with the place and the remedy in the message.

    The command line prints it without a traceback and exits with status 2. Anything else that
    escapes is a bug of ours, see ``extra_jax.cli.boundary``.
    """


def redact(text: str) -> str:
    """``text`` with ``***`` for what looks like a secret, and for what an environment variable holds as one.

    Seen as secrets: a password in a URL, what follows ``Authorization``, ``api_key``, ``password`` and the like, keys
    of known forms, and the value of each variable whose name has KEY, TOKEN, SECRET or PASSW in it.
    """
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def printable(text: str) -> str:
    """``text`` with escape sequences and other characters that act on a terminal as visible ``\\x1b``."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
