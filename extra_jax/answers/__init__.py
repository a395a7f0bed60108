"""Reading and comparing mathematical answers: pure functions on text, no I/O, no jax.

The way of an answer: ``extract`` finds it in a completion, ``latex`` cleans it, ``tokens`` cuts it, ``read`` tells what
kind of thing it is (``shape``), with ``cut`` for lists of tokens, ``measure`` and ``units`` for quantities, ``words``
for text and ``syntax`` for expressions (``tree``). ``compare`` decides by kind, with ``lineup``, ``regions`` and
``relations``; ``equality`` and ``evaluate`` decide by value; ``guard`` refuses what is not worked out; ``symbolic`` is
the door to math-verify for notation that ``syntax`` does not know. ``judge`` is the whole way in one call.
"""
