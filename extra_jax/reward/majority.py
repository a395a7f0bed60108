"""Majority voting: the answer that most samples of a problem give (Wang et al. 2022, arXiv:2203.11171)."""

from collections.abc import Sequence

from extra_jax.reward.verdict import ComparesAnswers, Verdict


def majority_scores(
    verdicts: Sequence[Sequence[str]], answers: Sequence[Sequence[str | None]], grader: ComparesAnswers
) -> list[float]:
    """``maj@N`` of each problem: whether the most frequent answer is the correct one.

    Two answers are one when the grader takes them for one: all that it judged correct are, and a wrong one never equals
    a correct one. Samples without an answer do not vote. Among ``t`` answers that share the lead the correct one counts
    ``1 / t``: what a coin decides on average, independent of the order of the samples.

    Args:
        verdicts: ``[P][N]``.
        answers: ``[P][N]``, what the grader took as the answer, ``None`` where it found none.
        grader: decides which wrong answers are one.

    Returns:
        ``[P]`` in [0, 1].
    """
    scores = [0.0] * len(verdicts)
    undecided: dict[int, list[list[str]]] = {}  # problem -> classes of wrong answers, equal as text
    correct_votes = {}
    for index, (row, given) in enumerate(zip(verdicts, answers, strict=True)):
        votes = sum(verdict == Verdict.CORRECT for verdict in row)
        by_text: dict[str, list[str]] = {}
        for verdict, answer in zip(row, given, strict=True):
            if verdict != Verdict.CORRECT and answer is not None and answer.strip():
                by_text.setdefault(answer.strip(), []).append(answer.strip())
        wrong = list(by_text.values())
        if votes > sum(map(len, wrong)):
            scores[index] = 1.0
        elif votes:
            correct_votes[index], undecided[index] = votes, wrong
    for index, classes in _merged(undecided, grader).items():
        sizes = [len(members) for members in classes]
        leaders = 1 + sizes.count(correct_votes[index])
        scores[index] = 0.0 if max(sizes) > correct_votes[index] else 1.0 / leaders
    return scores


def _merged(undecided: dict[int, list[list[str]]], grader: ComparesAnswers) -> dict[int, list[list[str]]]:
    """Unites the classes whose first members the grader takes for one answer; asks about all problems together."""
    pairs = [
        (index, i, j)
        for index, classes in undecided.items()
        for j in range(len(classes))
        for i in range(j)
    ]  # fmt: skip
    same = grader.same_answers([(undecided[index][i][0], undecided[index][j][0]) for index, i, j in pairs])
    home = {(index, i): i for index, classes in undecided.items() for i in range(len(classes))}
    for (index, i, j), equal in zip(pairs, same, strict=True):
        if equal and home[index, j] == j:
            home[index, j] = home[index, i]
    merged: dict[int, list[list[str]]] = {}
    for index, classes in undecided.items():
        united: dict[int, list[str]] = {}
        for i, members in enumerate(classes):
            united.setdefault(home[index, i], []).extend(members)
        merged[index] = list(united.values())
    return merged
