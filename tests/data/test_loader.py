"""The stream of a rank: the plan's batches, from any store, at any step, with any number of threads."""

import gc
import itertools
import threading

import fsspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ranking.data.loader import DataConfig, Loader
from ranking.data.manifest import Manifest
from ranking.data.plan import Position
from ranking.errors import InputError


def config(url, **changes):
    return DataConfig(**{"train": url, "transforms": "", "batch_size": 8, "lanes": 4, "block": 2} | changes)


@pytest.fixture(scope="session")
def open_loader(encode_impressions):
    """A loader of one epoch over a URL; config fields and loader arguments by name."""

    def build(url, seed=0, **arguments):
        own = {name: arguments.pop(name) for name in list(arguments) if name not in DataConfig.model_fields}
        settings = config(url, **arguments)
        manifest = Manifest.build(settings.train, store=settings.store)
        own = {"encode": encode_impressions, "epochs": 1} | own
        return Loader(manifest=manifest, plan=settings.plan(manifest, seed), config=settings, **own)

    return build


def indices(stream):
    return [(position, rows.index.tolist()) for position, rows in stream]


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ranking-data")]


def check_content(rows):
    """Every column tells the row's number, padding included."""
    real = rows.real
    tags = torch.where(real, rows.index % 3, 0)
    first = torch.repeat_interleave(rows.index, tags)
    place = torch.arange(len(first)) - torch.repeat_interleave(tags.cumsum(0) - tags, tags)
    assert torch.equal(rows.ids[0], torch.where(real, rows.index, 0))
    assert torch.equal(rows.dense[:, 0], torch.where(real, rows.index, 0) / 2)
    assert torch.equal(rows.lists[0].lengths, tags)
    assert torch.equal(rows.lists[0].values, first + place)
    for flag in (rows.labels[:, 0], rows.observed[:, 0], rows.masks[:, 0]):
        assert torch.equal(flag.bool(), real)


layouts = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5).filter(
    lambda files: any(map(sum, files))
)


@given(
    layouts,
    st.sampled_from(["shuffled", "chronological"]),
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (8, 4)]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_ranks_deliver_the_plan_for_every_layout(
    open_loader, write_shards, layout, order, world, each, block, threads, prefetch
):
    lanes, size = world
    own = {"order": order, "lanes": lanes, "batch_size": lanes * each, "block": block, "size": size}
    url = write_shards(layout)
    loaders = [open_loader(url, rank=r, threads=threads, prefetch=prefetch, epochs=2, **own) for r in range(size)]
    plan, seen = loaders[0].plan, []
    for batches in zip(*loaders, strict=True):
        (position,) = {position for position, _ in batches}
        index = torch.cat([rows.index for _, rows in batches])
        assert index.tolist() == plan.global_rows(position.epoch, position.step).tolist()
        for _, rows in batches:
            check_content(rows)
        seen.append((position, index[index >= 0].tolist()))
    assert [position for position, _ in seen] == [Position(e, s) for e in range(2) for s in range(plan.steps)]
    for epoch in range(2):
        rows = [row for position, index in seen if position.epoch == epoch for row in index]
        assert sorted(rows) == list(range(sum(map(sum, layout))))


@given(layouts, st.sampled_from(["shuffled", "chronological"]), st.integers(0, 1), st.data())
@settings(max_examples=40, deadline=None)
def test_resuming_at_any_step_gives_the_identical_tail(open_loader, write_shards, layout, order, rank, data):
    own = {"url": write_shards(layout), "order": order, "rank": rank, "size": 2}
    whole = indices(open_loader(epochs=3, **own))
    place = data.draw(st.integers(0, len(whole) - 1))
    start = whole[place][0]
    assert indices(open_loader(start=start, epochs=3 - start.epoch, **own)) == whole[place:]


def test_batches_are_cut_from_several_spans(open_loader, write_shards, monkeypatch):
    monkeypatch.setattr("ranking.data.loader._SPAN_ROWS", 24)
    loader = open_loader(write_shards([[50, 30], [41]]), rank=1, size=2, epochs=2)
    assert len(list(loader._spans())) > 4
    for position, rows in loader:
        expected = loader.plan.global_rows(position.epoch, position.step)[4:]
        assert rows.index.tolist() == expected.tolist()
        check_content(rows)


def test_training_reads_epoch_after_epoch_without_end(open_loader, write_shards):
    loader = open_loader(write_shards([[20]]), epochs=None)
    stream = iter(loader)
    positions = [position for position, _ in itertools.islice(stream, 10)]
    stream.close()
    assert positions[:4] == [Position(0, 0), Position(0, 1), Position(0, 2), Position(1, 0)]
    assert positions == list(itertools.accumulate(range(9), lambda p, _: loader.plan.after(p), initial=Position()))


def test_a_loader_can_be_read_again(open_loader, write_shards):
    loader = open_loader(write_shards([[20, 7]]))
    assert indices(loader) == indices(loader)


def test_a_rank_without_a_single_row_yields_padding(open_loader, write_shards):
    loader = open_loader(write_shards([[1]]), rank=0, size=4)
    ((position, rows),) = list(loader)
    assert position == Position(0, 0)
    assert rows.index.tolist() == [-1, -1]
    check_content(rows)


@pytest.mark.parametrize("order", ["shuffled", "chronological"])
def test_s3_and_memory_give_the_rows_of_the_local_disk(open_loader, write_shards, s3, tmp_path, order):
    layout = [[50, 30], [41]]
    local = open_loader(write_shards(layout, str(tmp_path)), order=order)
    memory = open_loader(write_shards(layout) + "/*.parquet", order=order)
    write_shards(layout, f"s3://ranking/{order}", s3)
    remote = open_loader(f"s3://ranking/{order}/*.parquet", order=order, storage_options=s3)
    assert remote.manifest.shards[0].stamp
    expected = indices(local)
    assert indices(memory) == expected
    assert indices(remote) == expected


def test_damage_met_in_a_thread_reaches_the_consumer_as_the_error_it_is(open_loader, write_shards):
    loader = open_loader(write_shards([[200]] * 4), order="chronological", block=1)
    system, path = fsspec.core.url_to_fs(loader.manifest.shards[3].url)
    content = bytearray(system.cat_file(path))
    content[600] ^= 1
    system.pipe_file(path, bytes(content))
    with pytest.raises(InputError, match=r"part-003\.parquet: row group 0: "):
        list(loader)
    assert not reading_threads()


def test_an_error_of_the_encoder_reaches_the_consumer(open_loader, write_shards, encode_impressions):
    def encode(table, index, order):
        if 30 in index:
            raise InputError("column 'x', row 30: got -1; expected ids")
        return encode_impressions(table, index, order)

    with pytest.raises(InputError, match=r"^column 'x', row 30"):
        list(open_loader(write_shards([[20, 20]]), encode=encode))
    assert not reading_threads()


@pytest.mark.parametrize("end", ["close", "drop", "throw"])
def test_no_thread_outlives_its_stream(open_loader, write_shards, end):
    stream = iter(open_loader(write_shards([[30] * 20]), epochs=None, prefetch=2, threads=3))
    next(stream)
    assert reading_threads()
    if end == "close":
        stream.close()
    elif end == "throw":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    del stream
    gc.collect()
    assert not reading_threads()


@pytest.mark.parametrize(("order", "shares"), [("shuffled", 4), ("chronological", 1)])
def test_memory_stays_flat_however_large_the_data(
    open_loader, write_shards, encode_impressions, order, shares, monkeypatch
):
    monkeypatch.setattr("ranking.data.loader._SPAN_ROWS", 16)
    group, block, prefetch = 20, 2, 1
    bound = shares * (1 + prefetch) * block * group + 3 * 16  # blocks, two spans, the one in use

    def most_rows_held(groups):
        counts, peak = {"encoded": 0, "delivered": 0}, 0

        def encode(table, index, order):
            counts["encoded"] += len(index)
            return encode_impressions(table, index, order)

        url = write_shards([[group] * groups])
        for _ in open_loader(url, encode=encode, order=order, block=block, prefetch=prefetch):
            peak = max(peak, counts["encoded"] - counts["delivered"])
            counts["delivered"] += 8
        return peak

    assert most_rows_held(100) <= bound
    assert most_rows_held(1000) <= bound


def test_one_url_may_stand_without_a_list():
    assert config("s3://bucket/day=*/").train == ("s3://bucket/day=*/",)
    assert config(["a", "b"]).train == ("a", "b")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"order": "random"}, {"train": []}, {"threads": 0}])
def test_the_configuration_refuses(wrong):
    with pytest.raises(ValidationError):
        config(**({"url": "a"} | wrong) if "train" not in wrong else {"url": wrong["train"]})
