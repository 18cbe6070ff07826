"""Counter-based random numbers: that of row r depends on the seed and r alone, not on what was drawn before.

So data is the same in chunks of any size, and two simulations of one event share its randomness.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from ranking.data.hashing import splitmix64

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def uniform(seed: int, stream: str, *counters: Ints) -> Floats:
    """One number in the open interval (0, 1) for every tuple of counters.

    Args:
        seed: of the whole simulation.
        stream: what the numbers decide; another name gives unrelated numbers.
        counters: at least one, `[N]` each or broadcast against each other, not negative.

    Returns:
        `[N]`.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    state = np.frombuffer(digest, "<u8").astype(np.uint64)
    for counter in counters:
        state = splitmix64(state ^ np.asarray(counter).astype(np.uint64))
    numbers: Floats = ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return numbers


def zipf(size: int, exponent: float) -> Floats:
    """Probability of the ranks 1 .. size of Zipf's law, `[size]`: proportional to rank^-exponent."""
    mass = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    shares: Floats = mass / mass.sum()
    return shares


def pick(cumulative: Floats, numbers: Floats) -> Ints:
    """Index drawn for each of `numbers`, uniform in (0, 1), of any shape, from a cumulative distribution `[K]`."""
    found: Ints = np.searchsorted(cumulative, numbers * cumulative[-1])
    return found
