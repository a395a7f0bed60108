"""``python -m extra_jax.cli``, the same as ``extra-jax``."""

import sys

from extra_jax.cli import main

sys.exit(main())
