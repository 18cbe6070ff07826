"""The pieces all reports of studies are made of."""

from __future__ import annotations

from pipelines.studies.record import Record

NAMES = {
    "single_task": "Single-Task",
    "shared_bottom": "Shared-Bottom",
    "l2_constrained": "L2-Constrained",
    "cross_stitch": "Cross-Stitch",
    "tensor_factorization": "Tensor-Factorization",
    "omoe": "OMoE",
    "mmoe": "MMoE",
    "mmoe_rates": "MMoE with rates",
    "mmoe_trees": "MMoE with rates and trees",
    "cgc": "CGC",
    "ple": "PLE",
    "esmm": "ESMM",
}
"""How the literature writes the architectures."""


def source(record: Record, file: str) -> str:
    """Where a report's numbers come from."""
    return f"`{record.command}`, revision {record.revision}, on {record.machine}. Numbers: [{file}]({file}).\n"
