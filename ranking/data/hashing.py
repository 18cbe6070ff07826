"""Hashes of whole columns into 64 bits, defined here so that no library or machine can change them.

Integers go through the output function of SplitMix64 [Steele, Lea, Flood 2014]; strings are read as little-endian
64-bit words of their UTF-8 bytes, zero padded, and chained through the same function from their length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD = 8


def splitmix64(state: UInt64) -> UInt64:
    """First output of SplitMix64 started at each of `state` `[N]`; a bijection of 64 bits."""
    z = state + _GAMMA
    z ^= z >> np.uint64(30)
    z *= _MIX_1
    z ^= z >> np.uint64(27)
    z *= _MIX_2
    z ^= z >> np.uint64(31)
    return z


def hash_keys(keys: pa.Array, seed: int = 0) -> UInt64:
    """Hash int64 or large_string `keys` `[N]`; what stands at a null is unspecified.

    Args:
        keys: an int64 or large_string array, as `Column.keys` gives.
        seed: another seed gives an unrelated hash; 0 is plain SplitMix64.
    """
    salt = splitmix64(np.array([seed % 2**64], np.uint64))[0] if seed else np.uint64(0)
    if pa.types.is_large_string(keys.type):
        return _strings(keys, salt)
    bits = integers(keys).view(np.uint64)
    return splitmix64(bits ^ salt if seed else bits)


def integers(keys: pa.Array) -> Int64:
    """The int64 array as numpy `[N]`, 0 at nulls, without a copy where there are none; possibly read-only."""
    values: Int64 = (keys.fill_null(0) if keys.null_count else keys).to_numpy()
    return values


def to_rows(hashes: UInt64, rows: int) -> Int64:
    """Spread `hashes` `[N]` evenly over rows 1 .. rows-1 by their high 32 bits (a multiplication, no division)."""
    scaled = hashes >> np.uint64(32)
    scaled *= np.uint64(rows - 1)
    scaled >>= np.uint64(32)
    scaled += np.uint64(1)
    return scaled.view(np.int64)


def _strings(keys: pa.Array, salt: np.uint64) -> UInt64:
    _, offsets, data = keys.buffers()
    if len(keys) == 0 or offsets is None:
        return np.zeros(len(keys), np.uint64)
    ends = np.frombuffer(offsets, np.int64, len(keys) + 1, keys.offset * 8)
    words = _words(data, int(ends[0]), int(ends[-1]))
    starts, lengths = ends[:-1] - ends[0], np.diff(ends)
    hashes = splitmix64(lengths.astype(np.uint64) ^ salt)
    active = np.flatnonzero(lengths)
    place = 0
    while active.size:  # one round for each 8 bytes of the longest string, over all strings at once
        left = lengths[active] - place
        word = words[starts[active] + place]
        word &= np.uint64(2**64 - 1) >> (_WORD * np.maximum(_WORD - left, 0)).astype(np.uint64)
        hashes[active] = splitmix64(hashes[active] ^ word)
        active = active[left > _WORD]
        place += _WORD
    return hashes


def _words(data: pa.Buffer | None, start: int, stop: int) -> UInt64:
    """The 64-bit little-endian word that begins at every byte of data[start:stop]."""
    raw = b"" if data is None else memoryview(data)[start:stop]
    padded = np.concatenate([np.frombuffer(raw, np.uint8), np.zeros(_WORD, np.uint8)])
    words: UInt64 = np.ndarray((stop - start,), np.dtype("<u8"), buffer=padded.data, strides=(1,))
    return words
