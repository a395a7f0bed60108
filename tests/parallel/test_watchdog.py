"""What one process concludes from what the others say; time is the number of looks."""

import json

import pytest

from extra_jax.parallel.watchdog import BEHIND, LOST, QUIET, TRY_AGAIN, Watchdog


class Store:
    """The key-value store of ``jax.distributed``."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        if key in self.entries and not allow_overwrite:
            raise RuntimeError(f"ALREADY_EXISTS: {key}")
        self.entries[key] = value

    def key_value_dir_get(self, prefix: str) -> list[tuple[str, str]]:
        return [(key, text) for key, text in self.entries.items() if key.startswith(prefix)]


@pytest.fixture
def pod() -> list[Watchdog]:
    store = Store()
    return [Watchdog(store, index, 3) for index in range(3)]


def pass_time(pod: list[Watchdog], looks: int, living: tuple[int, ...] = (0, 1, 2)) -> list[tuple[str, int]]:
    """Everybody who lives talks and looks; returns the verdicts of the last look."""
    verdicts = []
    for _ in range(looks):
        for index in living:
            pod[index].exchange()
        verdicts = [verdict for index in living if (verdict := pod[index].look()) is not None]
        if verdicts:
            break
    return verdicts


def test_nothing_is_said_while_all_live_however_long_they_wait(pod, capsys) -> None:
    assert pass_time(pod, 2 * LOST) == []
    assert capsys.readouterr().err == ""


def test_a_failure_ends_all_with_the_first_message_and_its_status(pod) -> None:
    pass_time(pod, 3)
    pod[1].fail("the disk is full", 2, foreseen=True)
    pod[2].fail("another one", 70, foreseen=True)
    ((message, status),) = pass_time(pod, 1, living=(0,))
    assert status == 2
    assert message.startswith("process 1 (pid ")
    assert message.endswith(" failed: the disk is full")


def test_the_one_that_failed_has_time_to_close_and_no_more(pod) -> None:
    pod[1].fail("the disk is full", 2, foreseen=True)
    assert pass_time(pod, 30, living=(1,)) == []
    assert pass_time(pod, 1, living=(1,)) == [("the disk is full", 2)]


def test_a_process_that_says_nothing_is_named_by_one_and_then_given_up_by_all(pod, capsys) -> None:
    pass_time(pod, 5)
    pass_time(pod, QUIET + 1, living=(1, 2))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, "by the first that lives"
    assert "process 0 (pid " in said[0]
    assert f"has given no sign of life for {QUIET} s" in said[0]
    verdicts = pass_time(pod, LOST, living=(1, 2))
    assert [status for _, status in verdicts] == [TRY_AGAIN, TRY_AGAIN]
    assert all("process 0 (pid " in message for message, _ in verdicts)


def test_who_was_stopped_itself_blames_nobody(pod) -> None:
    pass_time(pod, 5)
    assert pass_time(pod, LOST - QUIET, living=(1, 2)) == []
    assert pass_time(pod, LOST) == [], "process 0 is back, and its own looks stood still"


def test_a_store_that_does_not_answer_is_process_0(pod, capsys) -> None:
    pass_time(pod, 2)
    for _ in range(QUIET):
        assert pod[2].look() is None
    verdict = next(verdict for _ in range(LOST) if (verdict := pod[2].look()) is not None)
    assert verdict[1] == TRY_AGAIN
    assert "process 0" in verdict[0]


def test_the_one_that_the_others_wait_for_is_named_with_what_it_does(pod, capsys) -> None:
    pass_time(pod, 5)
    for index in (0, 1):
        pod[index].meetings += 1
    pod[2].place = "grade"
    assert pass_time(pod, BEHIND + 1) == [], "it lives: nobody ends"
    (said,) = capsys.readouterr().err.splitlines()
    assert "process 2 (pid " in said
    assert said.endswith("it is at: grade")


def test_what_is_said_is_json(pod) -> None:
    pod[0].exchange()
    (text,) = pod[0].client.entries.values()
    assert json.loads(text).keys() == {"look", "place", "meetings", "who"}
