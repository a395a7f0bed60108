"""``docs/howto/python.md`` is a program: its blocks run in order, in one process, then those of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

from docs.pages import ROOT, blocks
from tests.compiler import QUICK

# A finished run is returned, and nothing is trained a second time.
AGAIN = """
same = ex.train("configs/quickstart.yaml", {"run.dir": "runs/callback", **small}, callbacks=[spread])
assert same.step == 2
trained = ("reward", "step_time", "eval_pass@1")
assert all((same.history[name] == run.history[name]).all() for name in trained)
"""


def test_the_page_runs(tmp_path: Path) -> None:
    """In a folder that looks like the repository, so that its runs do not land in it."""
    whole_script = (ROOT / "docs" / "examples" / "notebook.py").read_text()  # has a test of its own
    parts = [block for block in blocks("howto/python.md", "python") if block != whole_script]
    program = "\n".join(block + AGAIN if "callbacks=[spread]" in block else block for block in parts)
    readme = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(readme) == 1
    (tmp_path / "page.py").write_text(program + readme[0].replace('{"run.dir"', '{**small, "run.dir"'))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": QUICK,
    }
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "did you mean 'train.num_generations'?" in done.stdout
    assert "[0 2]" in done.stdout
    assert (tmp_path / "runs" / "first_model" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "mine_model" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "own_parts" / "report.html").is_file()
