"""Rubrics: what a judge is asked, as versioned data files.

A rubric is a TOML file in ``rubrics/`` (or one of the user's own):

- ``unit``: what one question is about: ``rollout``, ``prefix`` (the trace up to the end of a segment) or ``segment``;
- ``reference``: whether the judge sees the reference solution;
- ``no_reference``: name of the rubric that asks the same without a reference (optional);
- ``user``: text with ``{problem}``, ``{reference}``, ``{trace}``, ``{number}``, ``{count}``, ``{mark}``. Problem and
  reference come first, so that all questions about one problem share a prefix, which an endpoint computes once. The
  mark is a hash of the trace: a line with it closes the trace, which cannot hold it;
- ``system.math``, ``system.science``, ``system.code``: the instructions by domain.

A file that has been used is never edited; a better one gets the next version number.

Source: ``docs/methods/exprl.md`` 2.1 and 3.2.
"""

import difflib
import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from extra_jax.config.loading import validated
from extra_jax.config.section import Section
from extra_jax.errors import ExtraError
from extra_jax.files import read_text

FOLDER = Path(__file__).parent / "rubrics"
DEFAULT_DOMAIN = "math"

Chat = list[dict[str, str]]

_FIELDS = ("problem", "reference", "trace", "number", "count", "mark")
_FIELD = re.compile(r"\{(\w+)\}")


class Rubric(Section):
    """One way of asking a judge: a file, and its name without suffix."""

    name: str
    unit: Literal["rollout", "prefix", "segment"]
    reference: bool
    no_reference: str | None = None
    user: str
    system: dict[str, str] = Field(min_length=1)

    @field_validator("user")
    @classmethod
    def _has_its_fields(cls, user: str, others: ValidationInfo) -> str:
        fields, shown = _FIELD.findall(user), others.data.get("reference")
        if unknown := [field for field in fields if field not in _FIELDS]:
            raise ValueError(f"unknown field {{{unknown[0]}}}; there are {', '.join(_FIELDS)}")
        needed = {"problem", "trace"} | ({"reference"} if shown else set())
        if missing := sorted(needed - set(fields)):
            raise ValueError(f"the field {{{missing[0]}}} is missing")
        if shown is False and "reference" in fields:
            raise ValueError("has the field {reference} but says reference = false")
        return user

    def messages(
        self, domain: str, problem: str, reference: str | None, trace: str, number: int = 1, count: int = 1
    ) -> Chat:
        """The chat that asks about one unit.

        Args:
            domain: ``math``, ``science`` or ``code``; empty is ``math``.
            reference: Reference solution; ignored by a rubric without one.
            trace: The whole trace, its prefix, or one segment.
            number: Which segment this is, from 1.

        Raises:
            ExtraError: the rubric has no instructions for the domain, or the reference is missing.
        """
        if self.reference and not reference:
            raise ExtraError(
                f"rubric {self.name} shows the judge a reference solution, and this problem has none: "
                f"{problem[:60]!r}. Give a `solution` for every problem, or judge with condition=noref"
            )
        mark = hashlib.sha256(trace.encode()).hexdigest()[:16]
        values = {"problem": problem, "reference": reference or "", "trace": trace, "mark": mark}
        values |= {"number": str(number), "count": str(count)}
        # One pass over the template: braces in a problem or a trace are text and never fields.
        user = _FIELD.sub(lambda field: values[field[1]], self.user)
        return [{"role": "system", "content": self._system(domain)}, {"role": "user", "content": user}]

    def sha(self, domain: str = DEFAULT_DOMAIN) -> str:
        """16 hex digits over everything that the judge is told besides problem, reference and trace."""
        text = json.dumps([self.unit, self.user, self._system(domain)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _system(self, domain: str) -> str:
        try:
            return self.system[domain or DEFAULT_DOMAIN]
        except KeyError as error:
            raise ExtraError(
                f"rubric {self.name} has no instructions for the domain {domain!r}, only for "
                f"{', '.join(self.system)}. Choose another rubric or write one: a TOML file with system.{domain}"
            ) from error


def load_rubric(name: str) -> Rubric:
    """A rubric of the package by name, or the one in a ``.toml`` file.

    Raises:
        ExtraError: no such rubric (the nearest is named), or a file that is none.
    """
    if not name.endswith(".toml") and name not in (known := rubric_names()):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ExtraError(f"rubric {name!r}: no such rubric; {hint} A file of your own ends in .toml")
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        raw = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ExtraError(f"rubric {path}: not valid TOML: {error}") from error
    rubric = validated(Rubric, raw | {"name": path.stem}, f"rubric {path}")
    system = {domain: text.strip("\n") for domain, text in rubric.system.items()}
    return rubric.model_copy(update={"user": rubric.user.strip("\n"), "system": system})


def rubric_names() -> list[str]:
    """Names of the rubrics in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
