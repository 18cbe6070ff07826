"""The published table: AUC on test of the best run and the mean of 400 [MMoE, KDD 2018, tables 1 and 2]."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One model in one group.

    Attributes:
        best: of the main task.
        mean: of the main task.
        marital_with_best: of the auxiliary task in the main task's best run.
        marital_mean: of the auxiliary task.
    """

    best: float
    mean: float
    marital_with_best: float
    marital_mean: float


PUBLISHED: dict[int, dict[str, Published]] = {
    1: {
        "single_task": Published(0.9398, 0.9337, 0.9933, 0.9922),
        "shared_bottom": Published(0.9361, 0.9295, 0.9915, 0.9921),
        "l2_constrained": Published(0.9389, 0.9359, 0.9922, 0.9918),
        "cross_stitch": Published(0.9406, 0.9361, 0.9917, 0.9922),
        "tensor_factorization": Published(0.7460, 0.6765, 0.8175, 0.8412),
        "omoe": Published(0.9387, 0.9319, 0.9928, 0.9923),
        "mmoe": Published(0.9410, 0.9359, 0.9926, 0.9927),
    },
    2: {
        "single_task": Published(0.8843, 0.8792, 0.9933, 0.9922),
        "shared_bottom": Published(0.8836, 0.8813, 0.9927, 0.9917),
        "l2_constrained": Published(0.8855, 0.8823, 0.9923, 0.9918),
        "cross_stitch": Published(0.8855, 0.8819, 0.9919, 0.9921),
        "tensor_factorization": Published(0.7367, 0.7256, 0.7453, 0.7497),
        "omoe": Published(0.8852, 0.8813, 0.9915, 0.9912),
        "mmoe": Published(0.8860, 0.8826, 0.9932, 0.9924),
    },
}
