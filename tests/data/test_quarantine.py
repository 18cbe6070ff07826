"""Damaged row groups under a bound: their rows are in no sample space, and no other row moves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.loader import DataConfig, Loader
from ranking.data.plan import Position
from ranking.data.quarantine import Damage, Quarantine, QuarantineConfig
from ranking.errors import InputError
from ranking.rows import Rows


def config(url, share=1.0, **changes):
    own = {"train": url, "transforms": "", "batch_size": 8, "lanes": 4, "block": 2, "threads": 1}
    return DataConfig(**own | {"quarantine": {"max_share": share}} | changes)


def opened(url, encode, settings=None, **arguments):
    settings = settings or config(url)
    manifest = settings.manifest([url], None, "data.train")
    return Loader(manifest, settings.plan(manifest, 0), encode, settings, **{"epochs": 1} | arguments)


layouts = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=4).filter(
    lambda files: any(map(sum, files))
)


@given(layouts, st.sampled_from(["shuffled", "chronological"]), st.sampled_from([1, 2, 4]), st.data())
@settings(max_examples=40, deadline=None)
def test_every_other_row_comes_once_and_in_its_place_whatever_the_world_and_the_step_resumed_at(
    write_shards, damage, encode_impressions, layout, order, size, data
):
    url = write_shards(layout)
    places = [(file, group) for file, groups in enumerate(layout) for group, rows in enumerate(groups) if rows]
    bad = data.draw(st.lists(st.sampled_from(places), unique=True))
    for file, group in bad:
        damage(f"{url}/part-{file:03}.parquet", group)
    whole = opened(url, encode_impressions, config(url, order=order))
    numbers = {
        place: number for number, place in enumerate((f, g) for f, gs in enumerate(layout) for g in range(len(gs)))
    }
    starts = np.cumsum(whole.manifest.row_groups) - whole.manifest.row_groups
    lost = {int(starts[n]) + row for n in map(numbers.get, bad) for row in range(whole.manifest.row_groups[n])}

    start = data.draw(st.integers(0, whole.plan.steps - 1))
    ranks = [
        opened(url, encode_impressions, config(url, order=order), rank=rank, size=size, start=Position(0, start))
        for rank in range(size)
    ]
    for batches in zip(*ranks, strict=True):
        (position,) = {position for position, _ in batches}
        rows = Rows.cat([rows for _, rows in batches])
        expected = whole.plan.global_rows(0, position.step)
        expected[np.isin(expected, list(lost))] = -1
        assert rows.index.tolist() == expected.tolist()
        assert torch.equal(rows.masks[:, 0], rows.real)
        assert torch.equal(rows.ids[0], rows.index.clamp(min=0))


@pytest.fixture
def spoiled(write_shards, damage):
    """4 row groups of 10 rows, the third one damaged."""
    url = write_shards([[10, 10], [10, 10]])
    damage(f"{url}/part-001.parquet", 0)
    return url


def test_the_default_is_to_fail_with_file_and_row_group(spoiled, encode_impressions):
    with pytest.raises(
        InputError, match=r"part-001\.parquet: row group 0: got '.*CRC.*'; expected an undamaged Parquet"
    ):
        list(opened(spoiled, encode_impressions, config(spoiled, share=0)))


def test_above_the_bound_the_job_fails_and_says_so(spoiled, encode_impressions):
    message = (
        r"^data\.quarantine\.max_share: got 10 damaged rows of 40, the last in .*part-001\.parquet: row group 0: .*"
        r"\(expected a share of at most 0\.2\)$"
    )
    with pytest.raises(InputError, match=message):
        list(opened(spoiled, encode_impressions, config(spoiled, share=0.2)))


def test_at_the_bound_it_goes_on_and_knows_what_was_lost(spoiled, encode_impressions, caplog):
    loader = opened(spoiled, encode_impressions)
    quarantine = Quarantine(loader.manifest, QuarantineConfig(max_share=0.25))
    loader = opened(spoiled, encode_impressions, quarantine=quarantine, epochs=2)
    assert sum(int(rows.real.sum()) for _, rows in loader) == 60
    assert quarantine.pending
    quarantine.agree([quarantine.found])
    (found,) = quarantine.agreed
    assert (found.url.rsplit("/")[-1], found.row_group, found.rows) == ("part-001.parquet", 0, 10)
    assert "CRC" in found.reason
    assert not quarantine.pending
    assert caplog.text.count("quarantined 10 rows") == 1


def test_what_several_ranks_found_counts_once_and_together(spoiled, encode_impressions):
    manifest = opened(spoiled, encode_impressions).manifest
    url = manifest.shards[0].url
    one, other = (Damage(url=url, row_group=group, rows=10, reason="x") for group in range(2))
    quarantine = Quarantine(manifest, QuarantineConfig(max_share=0.5), known=[one])
    quarantine.agree([(one,), (one, other)])
    assert quarantine.agreed == (one, other)
    with pytest.raises(InputError, match="got 20 damaged rows of 40"):
        Quarantine(manifest, QuarantineConfig(max_share=0.3)).agree([(one,), (other,)])


def test_jobs_that_read_from_end_to_end_leave_the_damaged_row_group_out(spoiled):
    settings = config(spoiled)
    manifest = settings.manifest([spoiled], None, "data.train")
    read = list(settings.row_groups(manifest))
    assert [index[0] for index, _ in read] == [0, 10, 30]
    assert [table["row"].to_pylist() for _, table in read] == [index.tolist() for index, _ in read]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_the_bound_is_a_share(share):
    with pytest.raises(ValueError, match="max_share"):
        QuarantineConfig(max_share=share)
