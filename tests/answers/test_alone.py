"""The package of answers is of use alone: its example runs, and nothing else of ours is imported."""

import doctest
import subprocess
import sys

import extra_jax.answers


def test_the_example_of_the_package_runs():
    failed, run = doctest.testmod(extra_jax.answers)
    assert (failed, run) == (0, 7)


def test_nothing_else_of_the_package_is_imported():
    program = (
        "import sys; from extra_jax.answers.verify import verify; verify('x', 'x+0'); "
        "others = [m for m in sys.modules if m.startswith('extra_jax.') and not m.startswith('extra_jax.answers')]; "
        "sys.exit(str(others) if others or 'jax' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
