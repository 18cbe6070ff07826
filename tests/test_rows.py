"""Taking, cutting and dealing encoded rows, lists and their weights included."""

import pytest
import torch

from ranking.rows import Ragged, Rows

LISTS = [[1], [], [2, 3, 4], [5, 6], [], [7]]


def ragged(lists, weighted):
    values = torch.tensor([value for row in lists for value in row], dtype=torch.int32)
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.int32)
    return Ragged(values, lengths, values / 2 if weighted else None)


def rows(numbers, weighted=True):
    """Row n carries n in every tensor and LISTS[n] in its list."""
    n = torch.tensor(numbers, dtype=torch.int64)
    column = torch.stack([n, n - 1], 1).float()
    return Rows(
        ids=torch.stack([n, n + 100]).int(),
        lists=(ragged([LISTS[i] for i in numbers], weighted),),
        dense=column,
        labels=column,
        observed=column > 0,
        masks=column > 0,
        groups=n,
        index=n,
    )


def check_same(got, expected):
    for name in ("ids", "dense", "labels", "observed", "masks", "groups", "index"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=0, atol=0)
    for one, other in zip(got.lists, expected.lists, strict=True):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.lengths, other.lengths)
        assert (one.weights is None and other.weights is None) or torch.equal(one.weights, other.weights)


@pytest.fixture(params=[False, True], ids=["unweighted", "weighted"])
def weighted(request):
    return request.param


@pytest.mark.parametrize("index", [[], [2], [5, 0, 2, 2, 1], [0, 1, 2, 3, 4, 5]])
def test_take_gathers_whole_rows(index, weighted):
    check_same(rows(range(6), weighted).take(torch.tensor(index, dtype=torch.int64)), rows(index, weighted))


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 6), (1, 4), (5, 6)])
def test_slice_is_a_run_of_rows(start, stop, weighted):
    check_same(rows(range(6), weighted).slice(start, stop), rows(range(start, stop), weighted))


def test_cat_puts_one_part_after_another(weighted):
    check_same(Rows.cat([rows([3, 1], weighted), rows([], weighted), rows([0], weighted)]), rows([3, 1, 0], weighted))


def test_a_batch_has_a_run_of_every_part(weighted):
    first, second = Rows.deal([rows([0, 1, 2, 3], weighted), rows([5, 4, 2, 0], weighted)], runs=2)
    check_same(first, rows([0, 1, 5, 4], weighted))
    check_same(second, rows([2, 3, 2, 0], weighted))


@pytest.mark.parametrize("runs", [1, 2, 3, 6])
def test_one_part_is_cut_into_runs_without_a_copy(runs, weighted):
    whole, size = rows(range(6), weighted), 6 // runs
    parts = Rows.deal([whole], runs)
    assert len(parts) == runs
    for place, part in enumerate(parts):
        check_same(part, rows(range(place * size, (place + 1) * size), weighted))
    assert parts[-1].ids.data_ptr() == whole.ids[:, 6 - size :].data_ptr()
    assert parts[-1].lists[0].values.untyped_storage().data_ptr() == whole.lists[0].values.untyped_storage().data_ptr()


def test_rows_without_lists_are_dealt():
    whole = Rows(**{**rows(range(6)).__dict__, "lists": ()})
    assert [batch.index.tolist() for batch in Rows.deal([whole, whole], runs=3)] == [
        [0, 1, 0, 1], [2, 3, 2, 3], [4, 5, 4, 5]
    ]  # fmt: skip


def test_the_ids_of_a_batch_lie_together():
    batch = Rows.deal([rows(range(6)), rows(range(6))], runs=3)[1]
    assert batch.ids.is_contiguous()


def test_padding_is_not_real_and_observes_nothing(weighted):
    padding = rows(range(6), weighted).padding(2)
    assert padding.index.tolist() == [-1, -1]
    assert padding.lists[0].lengths.tolist() == [0, 0]
    assert not any(tensor.any() for tensor in (padding.real, padding.masks, padding.observed, padding.labels))
    check_same(Rows.cat([rows([2], weighted), padding]).slice(0, 1), rows([2], weighted))
