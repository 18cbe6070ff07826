"""The order of examples: pure, complete, and the same for every world size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.plan import Block, Plan, Position, permutation, ranges
from ranking.errors import InputError

DIGEST = "5f" * 32
GOLDEN = [[23, 17, 27, 30, 35, 5, 3, 2], [21, 20, 26, 31, 6, 34, 12, 1]]


@st.composite
def plans(draw: st.DrawFn, orders: tuple[str, ...] = ("shuffled", "chronological")) -> Plan:
    groups = draw(st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any))
    lanes = draw(st.sampled_from([1, 2, 4, 8]))
    return Plan(
        groups,
        DIGEST,
        seed=draw(st.integers(0, 3)),
        batch_size=lanes * draw(st.integers(1, 5)),
        lanes=lanes,
        block=draw(st.integers(1, 4)),
        order=draw(st.sampled_from(orders)),
    )


def epoch_rows(plan: Plan, epoch: int = 0) -> np.ndarray:
    return np.stack([plan.global_rows(epoch, step) for step in range(plan.steps)])


def ordered(plan: Plan, block: Block) -> np.ndarray:
    numbers, order = plan.numbers(block), block.order()
    return numbers if order is None else numbers[order]


@given(plans())
@settings(max_examples=150, deadline=None)
def test_every_row_comes_exactly_once_an_epoch(plan):
    rows = epoch_rows(plan)
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(plan.rows))


@given(plans(orders=("shuffled",)))
@settings(max_examples=100, deadline=None)
def test_the_epoch_has_as_many_steps_as_the_longest_lane_needs(plan):
    lanes = [
        sum(len(ordered(plan, block)) for block in plan.blocks(range(lane, lane + 1), 0)) for lane in range(plan.lanes)
    ]
    assert lanes == [(v + 1) * plan.rows // plan.lanes - v * plan.rows // plan.lanes for v in range(plan.lanes)]
    assert plan.steps == -(-max(lanes) // (plan.batch_size // plan.lanes))


@given(plans(orders=("chronological",)))
@settings(max_examples=100, deadline=None)
def test_chronological_batches_follow_each_other_in_the_order_of_the_log(plan):
    flat = epoch_rows(plan).reshape(-1)
    np.testing.assert_array_equal(flat[: plan.rows], np.arange(plan.rows))
    assert (flat[plan.rows :] == -1).all()


@given(plans(), st.data())
@settings(max_examples=150, deadline=None)
def test_ranks_together_read_the_global_batches_whatever_the_world_size(plan, data):
    size = data.draw(st.sampled_from([size for size in (1, 2, 4, 8) if plan.lanes % size == 0]))
    lanes = [lane for rank in range(size) for share in plan.shares(rank, size) for lane in share]
    assert lanes == list(range(plan.lanes))
    expected = epoch_rows(plan).reshape(plan.steps, size, -1)
    for rank in range(size):
        shares = plan.shares(rank, size)
        read = []
        for share in shares:
            rows = np.concatenate([np.zeros(0, np.int64), *(ordered(plan, b) for b in plan.blocks(share, 0))])
            assert len(rows) == plan.share_rows(share)
            padding = plan.steps * plan.width(share) - len(rows)
            read.append(np.pad(rows, (0, padding), constant_values=-1).reshape(plan.steps, -1))
        np.testing.assert_array_equal(np.concatenate(read, axis=1), expected[:, rank])


@given(plans(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_share_read_from_any_step_is_the_tail_of_the_share_read_from_the_start(plan, data):
    share = data.draw(st.sampled_from(plan.shares(0, 1)))
    step = data.draw(st.integers(0, plan.steps))
    whole = [row for block in plan.blocks(share, 1) for row in ordered(plan, block)]
    tail = [row for block in plan.blocks(share, 1, step) for row in ordered(plan, block)]
    assert tail == whole[step * plan.width(share) :]


def test_a_resumed_share_decodes_nothing_that_lies_wholly_before_it():
    plan = Plan([10] * 40, DIGEST, batch_size=8, lanes=2, block=4)
    assert len(list(plan.blocks(range(0, 1), 0))) == 5
    assert len(list(plan.blocks(range(0, 1), 0, step=25))) == 3  # 100 of 200 rows read: two blocks of 40, half a third


def test_the_order_is_frozen_so_that_an_old_checkpoint_resumes_into_it():
    plan = Plan([5, 3, 0, 7, 1, 20], DIGEST, seed=7, batch_size=8, lanes=4, block=2)
    assert epoch_rows(plan, 3)[:2].tolist() == GOLDEN


@pytest.mark.parametrize("other", [{"seed": 1}, {"digest": "60" * 32}, {"lanes": 2}, {"block": 1}])
def test_seed_digest_lanes_and_block_each_change_the_order(other):
    usual = {"digest": DIGEST, "seed": 0, "batch_size": 16, "lanes": 4, "block": 4}
    one, same, changed = Plan([50] * 20, **usual), Plan([50] * 20, **usual), Plan([50] * 20, **(usual | other))
    assert (epoch_rows(changed) != epoch_rows(one)).mean() > 0.7
    assert changed.digest != one.digest == same.digest


def test_every_epoch_has_its_own_order_and_the_same_call_the_same_one():
    plan = Plan([50] * 20, DIGEST, batch_size=16, lanes=4)
    assert (epoch_rows(plan, 0) != epoch_rows(plan, 1)).mean() > 0.9
    np.testing.assert_array_equal(epoch_rows(plan, 1), epoch_rows(plan, 1))


def test_a_chronological_plan_is_the_same_in_every_epoch():
    plan = Plan([50] * 20, DIGEST, batch_size=16, lanes=4, order="chronological")
    np.testing.assert_array_equal(epoch_rows(plan, 0), epoch_rows(plan, 5))


def test_rows_are_shuffled_only_within_their_block():
    plan = Plan([10] * 12, DIGEST, batch_size=4, lanes=2, block=3)
    for block in plan.blocks(range(1), 0):
        assert len(block.pieces) == 3
        np.testing.assert_array_equal(np.sort(block.order()), np.arange(30))


def test_a_plan_of_a_billion_rows_costs_what_its_row_groups_cost():
    plan = Plan([10**6] * 1000, DIGEST, batch_size=8192)
    blocks = [block for lane in range(8) for block in plan.blocks(range(lane, lane + 1), 0)]
    assert plan.steps == 122_071
    assert sum(block.pieces.size for block in blocks) <= 3 * (1000 + 8)


def test_a_permutation_is_complete_and_shows_no_bias():
    order = permutation(12345, 100_000)
    np.testing.assert_array_equal(np.sort(order), np.arange(100_000))
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.01
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.01


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_permutations_of_hardly_anything(count):
    assert sorted(permutation(1, count)) == list(range(count))


def test_ranges_are_listed_one_after_another():
    assert ranges(np.array([3, 9, 5]), np.array([6, 9, 7])).tolist() == [3, 4, 5, 5, 6]


def test_positions_run_through_the_epochs():
    plan = Plan([10], DIGEST, batch_size=4, lanes=2)
    assert plan.steps == 3
    assert plan.after(Position(0, 1)) == Position(0, 2)
    assert plan.after(Position(0, 2)) == Position(1, 0)


def test_lanes_must_divide_the_batch():
    with pytest.raises(
        InputError, match=r"^data\.lanes: got 8 with data\.batch_size 100; expected lanes to divide it$"
    ):
        Plan([10], DIGEST, batch_size=100, lanes=8)


def test_the_world_size_must_divide_the_lanes():
    plan = Plan([10], DIGEST, batch_size=16, lanes=8)
    with pytest.raises(InputError, match=r"^data\.lanes: got 8 in a world of 3 ranks; expected a multiple of 3$"):
        plan.shares(0, 3)
