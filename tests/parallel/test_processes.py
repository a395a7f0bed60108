"""What one process does alone; ``tests/model/two_processes.py`` has two of them talk to each other."""

import numpy as np
import pytest

from extra_jax.parallel.processes import agree, filled_share, gather_objects, on_main, share


@pytest.mark.parametrize(("count", "processes"), [(5, 2), (6, 3), (2, 4), (0, 3), (7, 1)])
def test_shares_are_contiguous_and_as_equal_as_can_be(count, processes):
    shares = [share(count, index, processes) for index in range(processes)]
    assert [i for part in shares for i in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("count", "processes"), [(5, 2), (6, 3), (2, 4), (7, 1)])
def test_filled_shares_are_equal_and_begin_with_the_whole(count, processes):
    shares = [filled_share(count, index, processes) for index in range(processes)]
    assert len(set(map(len, shares))) == 1
    assert [i for part in shares for i in part][:count] == list(range(count))


def test_alone_everything_is_the_identity():
    assert gather_objects(["a", {"b": 1}]) == ["a", {"b": 1}]
    assert agree(np.array([3, 1])).tolist() == [3, 1]
    assert not agree(False)
    with pytest.raises(ZeroDivisionError):
        on_main(lambda: 1 / 0)
