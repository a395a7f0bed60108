"""Every block of code in the documentation is run by a test, or a comment before it says why it is not.

`<!-- not run: REASON -->` stands before a block, `<!-- not run on this page: REASON -->` at the top of a page. Blocks
of `text`, and those without a language, are output and diagrams.
"""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from docs.pages import ROOT
from extra_jax import cli
from extra_jax.config import config_from_dict

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = {path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "examples").glob("*.py")}
PROGRAMS = {  # page -> the test that runs its Python and JSON
    "README.md": "test_python_blocks.py",
    "docs/howto/python.md": "test_python_blocks.py",
    "docs/howto/from-trl-verl.md": "test_coming_from.py",
    "docs/howto/look-at-rollouts.md": "test_blocks.py",
}
OUTPUT = ("", "text")
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S
)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    mark: str
    body: str


def blocks_of_pages() -> list[Block]:
    listed = []
    for path in PAGES:
        text, page = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        whole = re.search(r"<!-- (not run on this page: [^\n]*) -->", text)
        for match in _FENCE.finditer(text):
            mark = match["mark"] or (whole[1] if whole else "")
            line = text[: match.start("language")].count("\n") + 1
            listed.append(Block(page, line, match["language"], mark, match["body"]))
    return listed


BLOCKS = blocks_of_pages()
RUN = [block for block in BLOCKS if block.mark == "run"]


def how(block: Block) -> str:
    """Who looks after a block; nothing if nobody does."""
    if block.language in OUTPUT:
        return "output"
    if re.match(r"not run( on this page)?: \w", block.mark) or block.mark == "run":
        return block.mark
    if block.language == "yaml":
        return "validated"
    if block.language == "python" and block.body in EXAMPLES:
        return "tests/docs/test_examples.py"
    return PROGRAMS.get(block.page, "") if block.language in ("python", "json") else ""


def test_every_block_is_run_or_says_why_not():
    assert len(BLOCKS) > 60
    left = [f"{block.page}:{block.line} ({block.language})" for block in BLOCKS if not how(block)]
    assert not left, "run these in a test, or say `<!-- not run: WHY -->` before them: " + ", ".join(left)
    assert all((ROOT / "tests" / "docs" / name).is_file() for name in PROGRAMS.values())


def test_a_block_that_nobody_runs_is_seen():
    assert how(Block("docs/new.md", 1, "bash", "", "rm -rf /")) == ""
    assert how(Block("docs/new.md", 1, "python", "", "1 / 0")) == ""
    assert how(Block("docs/new.md", 1, "bash", "not run: needs a TPU", "")) != ""
    assert how(Block("docs/new.md", 1, "bash", "not run:", "")) == ""


@pytest.mark.parametrize("block", [b for b in BLOCKS if how(b) == "validated"], ids=lambda b: f"{b.page}:{b.line}")
def test_settings_in_yaml_are_valid(block):
    config_from_dict({"model": {"path": "tiny-base"}, **yaml.safe_load(block.body)}, block.page)


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}:{block.line}")
def test_commands_work(block, monkeypatch, tmp_path, capsys):
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for line in block.body.replace("\\\n", " ").splitlines():
        name, *words = shlex.split(line, comments=True)
        assert name == "extra-jax", line
        assert cli.main(words) == 0, (line, capsys.readouterr().err)


def test_a_look_at_rollouts(monkeypatch, tmp_path, capsys):
    """The Python of docs/howto/look-at-rollouts.md, on records of one step."""
    (tmp_path / "runs/first/rollouts").mkdir(parents=True)
    row = {
        "prompt": "p",
        "completion": "c",
        "verdict": "wrong",
        "reward": 0.0,
        "entropies": [0.1],
        "completion_ids": [7],
    }
    rows = [row, row | {"reward": 1.0, "completion": "best", "entropies": [0.2, 0.9], "completion_ids": [1, 2]}]
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (tmp_path / "runs/first/rollouts/step_000001.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    (block,) = [b for b in BLOCKS if b.page == "docs/howto/look-at-rollouts.md" and b.language == "python"]
    exec(compile(block.body, block.page, "exec"), {})
    assert capsys.readouterr().out == "p best wrong\n[(0.9, 2), (0.2, 1)]\n"


def test_links_of_the_readme_exist():
    """Those of the site are checked by its strict build."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_in_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    text = json.dumps(site["nav"])
    assert not [str(p) for p in Path(ROOT / "docs").rglob("*.md") if str(p.relative_to(ROOT / "docs")) not in text]
