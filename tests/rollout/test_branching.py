"""Continuing from any prefix of any rollout."""

import numpy as np
import pytest

from extra_jax.errors import ExtraError
from extra_jax.rollout.types import Request, Rollouts
from rollout.tiny import CAP, STOP_IDS, by_id, generate, prompts, requests, sequences


def branches(rollouts: Rollouts, samples: int, keep: float = 0.5) -> list[Request]:
    """From the first part of every rollout that is long enough, with identities of their own."""
    rows = np.flatnonzero(rollouts.lengths >= 4)
    return [
        Request(
            rollouts.prompt_ids[row], samples, 1000 + 10 * int(row),
            prefix_ids=rollouts.completion_ids(row)[: int(keep * rollouts.lengths[row])],
        )
        for row in rows
    ]  # fmt: skip


@pytest.fixture(scope="module")
def rollouts():
    return generate(requests())


def test_a_prefix_is_given_not_drawn_and_counts_towards_the_cap(rollouts):
    asked = branches(rollouts, 2)
    branched = generate(asked)
    for row, index in enumerate(branched.prompt_index):
        assert branched.prefix_ids[row].tolist() == list(asked[index].prefix_ids)
        assert branched.prompt_ids[row].tolist() == list(asked[index].prompt_ids)
        assert 1 <= branched.lengths[row] <= CAP - len(asked[index].prefix_ids)
        assert branched.truncated[row] == (branched.completion_ids(row)[-1] not in STOP_IDS)
        assert branched.truncated[row] <= (branched.lengths[row] + len(asked[index].prefix_ids) == CAP)


def test_the_same_identity_continues_its_own_prefix_with_its_own_tokens(rollouts):
    """The key of a draw knows the position, not how the row came there."""
    asked = [
        Request(rollouts.prompt_ids[row], 1, int(rollouts.rollout_ids[row]), rollouts.completion_ids(row)[:cut])
        for row in range(64)
        for cut in {1, rollouts.lengths[row] // 2, rollouts.lengths[row] - 1} - {0}
        if cut < rollouts.lengths[row]
    ]
    branched = generate(asked)
    whole = {
        int(uid): sequence.tolist() for uid, sequence in zip(rollouts.rollout_ids, sequences(rollouts), strict=True)
    }
    assert len(asked) > 100
    assert [sequence.tolist() for sequence in sequences(branched)] == [whole[int(i)] for i in branched.rollout_ids]


@pytest.mark.parametrize("mesh", ["1", "4x2"])
def test_branches_of_branches_on_few_slots_equal_requests_alone(mesh, rollouts):
    """A context may be the beginning of another one, which some slot holds. Slots that were overwritten, compacted and
    resized in between are never taken for what they no longer hold."""
    random = np.random.default_rng(0)
    asked = []
    for number in range(40):
        row = int(random.integers(0, len(rollouts)))
        prefix = rollouts.completion_ids(row)[: int(random.integers(0, min(rollouts.lengths[row], CAP - 1) + 1))]
        asked.append(Request(rollouts.prompt_ids[row], int(random.integers(1, 5)), 100 * number, prefix))
    together = by_id(generate(asked, mesh, slots=12, chunk=5))
    alone: dict[int, tuple[int, ...]] = {}
    for request in asked:
        alone |= by_id(generate([request]))
    assert together == alone


def test_a_group_costs_one_prefill():
    alone = generate([Request(prompts()[-1], 1, 0)])
    group = generate([Request(prompts()[-1], 16, 0)])
    assert group.counters.prefilled == alone.counters.prefilled == len(prompts()[-1]) - 1


def test_a_prefix_that_leaves_no_room_is_refused_with_numbers():
    asked = [*requests()[:2], Request([1], 8, 16, [5] * CAP)]
    with pytest.raises(ExtraError, match=rf"rollout 16.*{CAP} tokens leaves nothing of the {CAP}"):
        generate(asked)


def test_requests_with_equal_prompts_share_their_keys_and_values():
    asked = [Request(prompts()[-1], 2, 10 * i) for i in range(5)]
    assert generate(asked).counters.prefilled == 5 * (len(prompts()[-1]) - 1)  # at once: nobody has it yet
    one_by_one = generate(asked, slots=2)
    assert one_by_one.counters.prefilled == len(prompts()[-1]) - 1


def test_counters_add_up(rollouts):
    counters = rollouts.counters
    assert counters.tokens == rollouts.lengths.sum() <= counters.slot_steps
    assert counters.prefilled == sum(len(ids) - 1 for ids in prompts())
    assert 0 < counters.occupancy <= 1
    assert 0 < counters.host_seconds < counters.seconds
