"""The files of the page, and the one file that ``--out`` makes of them and of some of the answers that they ask for."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from extra_jax.files import write_file
from extra_jax.telemetry.page import ASSETS as REPORT_ASSETS
from extra_jax.view.answers import Answers, Refused, to_json

_ASSETS = Path(__file__).parents[1] / "assets" / "view"
INDEX = _ASSETS / "index.html"
STYLES = (REPORT_ASSETS / "chart.css", _ASSETS / "uplot.css", _ASSETS / "app.css")
SCRIPTS = tuple(_ASSETS / name for name in ("uplot.js", "text.js", "charts.js", "cards.js", "app.js"))

MOST_BYTES = 12 << 20
"""Of completions in a file: what can be sent by mail."""


def write_page(answers: Answers, path: str | Path) -> tuple[Path, int, int]:
    """Writes one file that needs no server and no network.

    It holds all curves, and groups of completions until ``MOST_BYTES`` are full: of every source by turns those of the
    newest step, and with a group that continues an attempt the one that the attempt is of.

    Returns:
        The path, and how many groups are in it, of how many.
    """
    while answers.advance():
        pass
    data, chosen, total = _sample(answers)
    page = INDEX.read_text(encoding="utf-8")
    styles = "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
    scripts = [path.read_text(encoding="utf-8") for path in SCRIPTS]
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {digests}; style-src 'sha256-{_digest(styles)}'; img-src data:; "
    policy += "base-uri 'none'; form-action 'none'"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{styles}</style>\n'
    # Within a script element only `<` could end it; JSON may write it as an escape.
    body = '<script type="application/json" id="data">' + to_json(data).decode().replace("<", "\\u003c") + "</script>\n"
    body += "\n".join(f"<script>{script}</script>" for script in scripts)
    page = re.sub(r'<link rel="stylesheet"[^>]*>\n', "", page)
    page = re.sub(r'<script src="[^"]*"></script>\n', "", page)
    page = page.replace("</head>", head + "</head>").replace("</body>", body + "\n</body>")
    return write_file(Path(path), page), chosen, total


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sample(answers: Answers) -> tuple[dict[str, Any], int, int]:
    """Answers by question, and how many groups they have, of how many."""
    runs = range(len(answers.runs))
    groups: dict[str, list[Any]] = {}
    details: dict[str, Any] = {}
    sources = [(str(run), source) for run in runs for source in answers.runs[run].sources]
    lists = {key: _entries(answers, *key) for key in sources}
    total, room = sum(map(len, lists.values())), MOST_BYTES
    for place in range(max(map(len, lists.values()), default=0)):
        for (run, source), entries in lists.items():
            if place < len(entries) and room > 0:
                room -= _add(answers, run, source, entries[place], groups, details)
    data = {
        "runs": answers("runs", {}),
        "state": answers("state", {}),
        "curves": [answers("curves", {"run": str(run)}) for run in runs],
        "groups": {key: sorted(own, key=lambda entry: -entry["step"]) for key, own in groups.items()},
        "details": details,
    }
    return data, len(details), total


def _entries(answers: Answers, run: str, source: str) -> list[Any]:
    """The groups of a source, newest first, as many as could ever fit."""
    entries: list[Any] = []
    after: str | None = ""
    while after is not None and len(entries) < 5_000:
        answer = answers("groups", {"run": run, "source": source, "after": after, "most": "200"})
        entries, after = entries + answer["groups"], answer["next"]
    return entries


def _add(
    answers: Answers, run: str, source: str, entry: Any, groups: dict[str, list[Any]], details: dict[str, Any]
) -> int:
    """Adds a group, and the one that its parent is of; returns the bytes."""
    key = f"{run}|{source}"
    if f"{key}|{entry['ref']}" in details:
        return 0
    try:
        detail = answers("group", {"run": run, "source": source, "ref": entry["ref"]})
    except Refused:  # the file went away meanwhile
        return 0
    details[f"{key}|{entry['ref']}"] = detail
    groups.setdefault(key, []).append(detail["group"])
    size = len(to_json(detail))
    parent = (detail["parent"] or {}).get("group")
    return size + (_add(answers, run, source, parent, groups, details) if parent else 0)
