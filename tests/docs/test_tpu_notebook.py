"""The notebook for a TPU of Colab or Kaggle: its cells run on a CPU, with the small shapes that it takes there."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_cells_run_and_print_tokens_a_second_and_a_chip(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs/start/tpu.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells[0].startswith("%%bash")
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")], "nobody has run it on a TPU"
    (tmp_path / "cells.py").write_text("\n".join(cells[1:]), encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "cells.py"],
        env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 x cpu: no TPU" in done.stdout
    assert "completion tokens a second and a chip" in done.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"notebook_quickstart", "notebook_gsm8k"}
