"""Reading and comparing mathematical answers: pure functions on text, no I/O, no jax. Usable alone:

    >>> from extra_jax.answers.extract import last_answer
    >>> from extra_jax.answers.verify import verify
    >>> answer = last_answer(r"Therefore $x = \\boxed{\\frac{\\sqrt{8}}{4}}$.").text
    >>> verdict, why = verify(r"\\frac{1}{\\sqrt{2}}", answer)
    >>> str(verdict), why
    ('correct', '')
    >>> verdict, why = verify("56088", r"123 \\times 456")
    >>> str(verdict), why
    ('wrong', 'not worked out: product')

``verify`` is the whole way from two texts to a verdict in one call. Hostile text can make it slow, so a trainer calls
it in processes that can be killed (``extra_jax.reward.workers``).

The way of an answer: ``extract`` finds it in a completion, ``latex`` cleans it, ``tokens`` cuts it, ``read`` tells what
kind of thing it is (``shape``), with ``cut`` for lists of tokens, ``measure`` and ``units`` for quantities, ``words``
for text and ``syntax`` for expressions (``tree``). ``compare`` decides by kind, with ``lineup``, ``regions`` and
``relations``; ``equality`` and ``evaluate`` decide by value; ``guard`` refuses what is not worked out; ``symbolic`` is
the door to math-verify for notation that ``syntax`` does not know.
"""
