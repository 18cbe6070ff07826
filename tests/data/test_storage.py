"""Object stores that throttle, stall, cut off, lose or replace files: answered late, or named; never other rows."""

import errno
import threading
import time
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from ranking.data.loader import DataConfig, Loader
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.data.storage import DamageError, RetryConfig, Store
from ranking.errors import InputError, ServiceError
from tests.faults.proxy import Fault, Proxy
from tests.launch import free_port

LAYOUT = [[300, 300], [300]]
TIMEOUTS = {"config_kwargs": {"read_timeout": 0.3, "connect_timeout": 1}}


@pytest.fixture(scope="module")
def proxy(s3) -> Iterator[Proxy]:
    host, port = s3["endpoint_url"].removeprefix("http://").split(":")
    with Proxy(host, int(port)) as running:
        yield running


@pytest.fixture
def bucket(s3, write_shards, request) -> str:
    """A directory of two shards, written past the proxy."""
    url = f"s3://ranking/{abs(hash(request.node.name))}"
    write_shards(LAYOUT, url, s3)
    return url


@pytest.fixture
def store(s3, proxy) -> Store:
    """The bucket as seen through the proxy."""
    return Store(s3 | TIMEOUTS | {"endpoint_url": proxy.url}, RetryConfig(deadline_s=20))


def impatient(store, seconds):
    return Store(store.options, RetryConfig(deadline_s=seconds))


def read(manifest, store, *groups):
    rows = manifest.row_groups
    pieces = np.array([[group, 0, rows[group]] for group in groups or range(len(rows))])
    return Decoder(manifest, store).read(pieces)["row"].to_pylist()


def write(s3, url, content):
    system, path = fsspec.core.url_to_fs(url, **s3)
    system.pipe_file(path, content)


@pytest.mark.parametrize("root", ["{tmp_path}/.snapshot/data", "memory://_days/data"])
@pytest.mark.parametrize("pattern", ["", "/**/*.parquet", "/*/*.parquet"])
def test_what_writers_work_in_is_not_data(root, pattern, tmp_path):
    root = root.format(tmp_path=tmp_path)
    system, path = fsspec.core.url_to_fs(root)
    names = [
        "day=1/part-0",
        "_day=1/part-0",
        "_temporary/part-0",
        ".train.dead/part-0",
        "day=1/_part-0",
        "day=1/.part-0",
    ]
    for name in names:
        system.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{path}/{name}.parquet", b"")
    found = [url.removeprefix("file://").partition("/data/")[2] for url, _ in Store().find(root + pattern)]
    assert found == ["_day=1/part-0.parquet", "day=1/part-0.parquet"]


def test_hidden_files_are_data_where_a_pattern_names_them(tmp_path):
    for name in ("day=1/_clean/a", "day=1/_clean/_b", "day=1/_raw/a", "_c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.parquet").touch()

    def found(pattern):
        return [url.removeprefix(f"file://{tmp_path}/") for url, _ in Store().find(f"{tmp_path}/{pattern}")]

    assert found("*/_clean/*.parquet") == ["day=1/_clean/a.parquet"]
    assert found("*/_cl*/_*.parquet") == ["day=1/_clean/_b.parquet"]
    assert found("_*.parquet") == ["_c.parquet"]
    assert found("**/*.parquet") == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", times=3),
        Fault("status", times=2, status=503, code="ServiceUnavailable"),
        Fault("status", times=2, status=500, code="InternalError"),
        Fault("status", times=1, status=404, code="NoSuchKey", path="part-001"),
        Fault("status", times=2, status=429, code="TooManyRequests"),
        Fault("stall", times=1),
        Fault("reset", times=2),
        Fault("cut", times=2),
        Fault("short", times=1, path="part-001"),
        Fault("flip", times=1, path="part-001"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}" if fault.kind == "status" else fault.kind,
)
def test_what_passes_is_waited_for(bucket, store, proxy, fault):
    manifest = Manifest.build(bucket, store=store)
    with proxy.failing(fault):
        assert read(manifest, store) == list(range(900))
    assert fault.met == fault.times


def test_damage_is_counted_apart_from_what_passes(bucket, store, proxy, monkeypatch):
    monkeypatch.setattr("ranking.data.storage._FIRST_WAIT", 0.01)
    manifest = Manifest.build(bucket, store=store)
    with proxy.failing(Fault("status", times=4, path="part-001"), Fault("short", times=2, path="part-001")) as faults:
        assert read(manifest, store) == list(range(900))
    assert [fault.met for fault in faults] == [4, 2]


def test_listing_and_footers_are_tried_again_too(bucket, store, proxy):
    ways = Fault("status", times=2, path="list-type"), Fault("cut", times=2, path="part-000"), Fault("flip", path="001")
    with proxy.failing(*ways) as faults:
        assert Manifest.build(bucket, store=store).rows == 900
    assert [fault.met for fault in faults] == [2, 2, 1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("status", times=None), "SlowDown"),
        (Fault("stall", times=None), "timeout"),
        (Fault("reset", times=None), ""),
    ],
    ids=["throttled", "stalled", "gone"],
)
def test_a_store_that_never_recovers_is_named_at_the_deadline(bucket, store, proxy, fault, reason):
    manifest, began = Manifest.build(bucket, store=store), time.monotonic()
    with proxy.failing(fault), pytest.raises(ServiceError) as caught:
        read(manifest, impatient(store, 1.5), 2)
    line = str(caught.value)
    assert line.startswith(f"{bucket}/part-001.parquet: ")
    assert reason in line
    assert line.endswith("expected an answer within data.retry.deadline_s")
    assert "\n" not in line
    assert time.monotonic() - began < 10


def test_a_store_that_is_not_up_yet_is_waited_for(bucket, s3):
    port = free_port()
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port, verbose=False)
    starting = threading.Timer(0.7, server.start)  # shows what the other server of this process has
    starting.start()
    found = Store(s3 | {"endpoint_url": f"http://127.0.0.1:{port}"}, RetryConfig(deadline_s=20)).find(bucket)
    starting.join()
    server.stop()
    assert len(found) == len(LAYOUT)


@pytest.mark.parametrize("name", ["EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"])
def test_a_connection_that_cannot_be_made_is_tried_again(store, name, monkeypatch):
    monkeypatch.setattr("ranking.data.storage._FIRST_WAIT", 0.01)
    error = getattr(pytest.importorskip("botocore.exceptions"), name)(endpoint_url="x", proxy_url="x")
    answers = iter([error] * 6)  # more than damage is looked at

    def work():
        for error in answers:
            raise error
        return "answered"

    assert store.attempt("s3://ranking/x", "x", work) == "answered"


def test_no_second_attempt_without_a_deadline(bucket, store, proxy):
    manifest, fault = Manifest.build(bucket, store=store), Fault("status")
    with proxy.failing(fault), pytest.raises(ServiceError, match=r"part-000\.parquet: .*got '.*SlowDown'"):
        read(manifest, impatient(store, 0))


class Answered(Exception):
    """As gcsfs and adlfs hand on what a server said."""

    def __init__(self, code):
        super().__init__(f"status {code}")
        self.code = code


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (ServiceError, TimeoutError("slow")),
        (ServiceError, ConnectionResetError(errno.ECONNRESET, "reset")),
        (ServiceError, OSError(errno.EIO, "broken disk")),
        (ServiceError, Answered("503")),
        (InputError, Answered(403)),
        (InputError, PermissionError(errno.EACCES, "forbidden")),
        (InputError, FileNotFoundError(errno.ENOENT, "nowhere")),
        (InputError, IsADirectoryError(errno.EISDIR, "a directory")),
        (InputError, OSError(errno.EINVAL, "no name for a bucket")),
        (InputError, RuntimeError("Unable to locate credentials")),
        (DamageError, OSError("no magic bytes")),
        (DamageError, pa.ArrowInvalid("no magic bytes")),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_service_s_failure_is_told_apart_from_a_wrong_place_and_from_damage(kind, error):
    def work():
        raise error

    with pytest.raises(InputError, match=r"^x: got ") as caught:
        Store(retry=RetryConfig(deadline_s=0)).attempt("memory://x", "x", work)
    assert type(caught.value) is kind


def test_what_is_forbidden_is_not_tried_again(bucket, store, proxy):
    manifest, fault = Manifest.build(bucket, store=store), Fault("status", times=None, status=403, code="AccessDenied")
    with proxy.failing(fault), pytest.raises(InputError, match=r"part-000\.parquet: .*AccessDenied"):
        read(manifest, store, 0)
    assert fault.met <= 2


def test_an_object_replaced_before_it_is_opened_is_named(bucket, s3, store, write_shards):
    manifest = Manifest.build(bucket, store=store)
    content = fsspec.open(f"{bucket}/part-001.parquet", **s3).open().read()
    write(s3, f"{bucket}/part-001.parquet", content[:-100] + bytes(100))
    assert read(manifest, store, 0, 1) == list(range(600))
    with pytest.raises(
        InputError, match=r"part-001\.parquet: changed since the manifest was read: got stamp '.*'; exp"
    ):
        read(manifest, store, 2)


def test_an_object_replaced_under_an_open_file_never_gives_other_rows(bucket, s3, store, write_shards):
    manifest = Manifest.build(bucket, store=store)
    decoder = Decoder(manifest, store)
    assert decoder.read(np.array([[0, 0, 300]])).num_rows == 300
    other = f"{bucket}-other"
    write_shards([[300, 299]], other, s3)
    write(s3, f"{bucket}/part-000.parquet", fsspec.open(f"{other}/part-000.parquet", **s3).open().read())
    with pytest.raises(InputError, match=r"part-000\.parquet: changed since the manifest was read: got \d+ bytes; exp"):
        decoder.read(np.array([[1, 0, 300]]))


def test_an_object_deleted_in_between_is_named(bucket, s3, store):
    manifest = Manifest.build(bucket, store=store)
    system, path = fsspec.core.url_to_fs(f"{bucket}/part-001.parquet", **s3)
    system.rm(path)
    with pytest.raises(InputError, match=r"part-001\.parquet: got no such file; expected a Parquet file$"):
        read(manifest, store, 2)


def test_a_bit_that_stays_flipped_is_damage(bucket, s3, store, proxy):
    manifest = Manifest.build(bucket, store=store)
    with (
        proxy.failing(Fault("flip", times=None, path="part-001")),
        pytest.raises(InputError, match=r"part-001\.parquet"),
    ):
        read(manifest, store, 2)
    assert read(manifest, store, 2) == list(range(600, 900))


@pytest.mark.parametrize("url", ["bogus://x", "s3:/", "://", "http://"])
def test_a_url_that_leads_nowhere_is_named(url):
    with pytest.raises(InputError, match=r"data\.train: got|" + url):
        Manifest.build(url, store=Store(retry=RetryConfig(deadline_s=0)))


def test_a_loader_on_a_bad_day_delivers_the_rows_of_a_good_one(bucket, store, proxy, encode_impressions):
    config = DataConfig(
        train=bucket, transforms="", batch_size=100, lanes=4, storage_options=store.options, retry=store.retry
    )
    manifest = config.manifest(config.train, None, "data.train")
    loader = Loader(manifest, config.plan(manifest, 0), encode_impressions, config, epochs=1)
    expected = [rows.index.tolist() for _, rows in loader]
    faults = [Fault("status", times=2), Fault("cut"), Fault("reset"), Fault("stall")]
    with proxy.failing(*faults):
        assert [rows.index.tolist() for _, rows in loader] == expected
    assert sum(fault.met for fault in faults) == 5
