"""Pages that open offline: Jinja templates of ``assets/report``. Whatever comes from data is escaped."""

from pathlib import Path
from typing import Any

import jinja2

ASSETS = Path(__file__).parents[1] / "assets" / "report"

_PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ASSETS),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **shown: Any) -> str:
    """The page; half of a surrogate pair, which no UTF-8 file can hold, becomes a question mark."""
    return _PAGES.get_template(template).render(shown).encode("utf-8", "replace").decode()
