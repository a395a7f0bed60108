"""Each example of ``docs/examples`` is one short file, and a page prints it as it is."""

import pytest

from docs.pages import ROOT, blocks

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
LINES = 40


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_is_short_and_a_page_prints_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    printed = {
        block
        for page in (ROOT / "docs").rglob("*.md")
        for block in blocks(str(page.relative_to(ROOT / "docs")), "python")
    }
    assert text in printed, f"no page of docs/ prints {path.name}, or it prints another version of it"


def test_there_are_examples():
    assert len(EXAMPLES) >= 6
