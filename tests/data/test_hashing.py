"""Known answers. These numbers are a promise to every trained model: a change makes its embedding rows meaningless."""

import numpy as np
import pyarrow as pa

from ranking.data.hashing import hash_keys, splitmix64, to_rows


def test_integers_hash_as_splitmix64():
    reference = np.array([0, 1234567], np.uint64)  # first outputs of the published generator
    assert splitmix64(reference).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]
    keys = pa.array([0, 1, -1, 2**63 - 1])
    assert [hex(x) for x in hash_keys(keys)] == [
        "0xe220a8397b1dcdaf",
        "0x910a2dec89025cc1",
        "0xe4d971771b652c20",
        "0x2a67d7552e039ea7",
    ]
    assert [hex(x) for x in hash_keys(keys[:2], seed=7)] == ["0xb8b4c2977eabce45", "0x3d41bf495cd3075f"]


def test_strings_hash_by_their_utf8_words():
    keys = pa.array(["", "a", "abcdefgh", "abcdefghi", "Zürich 東京"], pa.large_string())
    assert [hex(x) for x in hash_keys(keys)] == [
        "0xe220a8397b1dcdaf",
        "0x5e025f9ade9eaf3e",
        "0x804d4bcf99e046d6",
        "0xcbe0b0512e86ab3b",
        "0xaca6d0d3eb462145",
    ]
    assert [hex(x) for x in hash_keys(keys[2:4], seed=7)] == ["0xa01b510ad5dad03a", "0x5cae4b56a7e1cce1"]


def test_hashes_of_strings_are_distinct_and_even():
    keys = pa.array([f"user_{i}" for i in range(20_000)] + ["x" * i for i in range(500)], pa.large_string())
    hashes = hash_keys(keys)
    assert len(set(hashes.tolist())) == len(keys)
    counts = np.bincount(to_rows(hashes, 101), minlength=101)
    assert counts[0] == 0
    assert np.abs(counts[1:] / 205 - 1).max() < 0.35
