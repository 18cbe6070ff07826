"""Health of a mixture of experts: how gates spread their weight, and whether experts live and differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ranking.schema import Frozen

Floats = npt.NDArray[np.float64]

DEAD = 0.1  # share of an even weight, 1 / n, below which the mean weight of a dead expert is at every gate


class GateHealth(Frozen):
    """One gate.

    Attributes:
        weights: mean weight of each of the n experts, 0 where the gate does not see one.
        entropy: of the mean weights, over its largest value: 1 all experts equally, 0 a single one; None where the
            gate sees one expert only.
        row_entropy: mean over rows of the entropy of a row's weights, likewise: low with a high `entropy` is a gate
            that sends different rows to different experts.
    """

    weights: tuple[float, ...]
    entropy: float | None
    row_entropy: float | None


class MixtureHealth(Frozen):
    """A group of experts and the gates over it.

    Attributes:
        gates: by task; `all` is a gate of all tasks, `shared` that of the shared branch.
        dead_experts: share of the n experts whose mean weight is below a tenth of an even one, 0.1 / n, at every gate.
        dead_units: share of the experts' ReLU units that were zero on every row of a sample.
        similarity: mean linear CKA of all pairs of experts: 1 where they compute the same up to a rotation, near 0
            for unrelated ones; None where fewer than two experts vary.
    """

    gates: dict[str, GateHealth]
    dead_experts: float
    dead_units: float | None = None
    similarity: float | None = None

    def metrics(self) -> dict[str, float]:
        """Flat for a tracker: `click/entropy`, `click/weight_0`, `dead_experts` ...; undefined ones left out."""
        found: dict[str, float | None] = {
            name: getattr(self, name) for name in ("dead_experts", "dead_units", "similarity")
        }
        for name, gate in self.gates.items():
            found |= {f"{name}/entropy": gate.entropy, f"{name}/row_entropy": gate.row_entropy}
            found |= {f"{name}/weight_{expert}": weight for expert, weight in enumerate(gate.weights)}
        return {name: value for name, value in found.items() if value is not None}

    def collapsed(self, share: float) -> list[str]:
        """Gates that give at least `share` of their mean weight to one of several experts."""
        return [name for name, gate in self.gates.items() if gate.entropy is not None and max(gate.weights) >= share]


def gate_health(weights: Floats, row_entropy: float, seen: int) -> GateHealth:
    """Health of a gate from sums over rows.

    Args:
        weights: `[n]` mean weights.
        row_entropy: mean entropy of a row's weights, in nats.
        seen: experts the gate sees.
    """
    used = weights[weights > 0]
    most = float(np.log(seen))
    spread = None if seen < 2 else float(-(used * np.log(used)).sum()) / most
    return GateHealth(
        weights=tuple(map(float, weights)), entropy=spread, row_entropy=None if seen < 2 else row_entropy / most
    )


def dead_share(weights: Sequence[Floats]) -> float:
    """Share of experts that no gate uses: none gives them a tenth of an even weight, 1 / n.

    Args:
        weights: `[K, n]` mean weights of each group of gates over the same n experts.
    """
    largest = np.concatenate(weights).max(axis=0)
    return float((largest < DEAD / largest.size).mean())


def similarity(outputs: Floats) -> float | None:
    """Mean over pairs of experts of the linear CKA of their outputs [Kornblith et al., ICML 2019].

    With the unbiased estimate of HSIC [Song et al., JMLR 2012, eq. 5], so that unrelated experts give 0 however wide
    they are; a pair may then be a little below it.

    Args:
        outputs: `[n, S, H]` of n experts on the same S rows.

    Returns:
        None with fewer than two experts whose output varies, or fewer than four rows.
    """
    experts, rows, _ = outputs.shape
    if experts < 2 or rows < 4:
        return None
    centred = outputs - outputs.mean(axis=1, keepdims=True)
    grams = centred @ centred.transpose(0, 2, 1)
    grams[:, np.arange(rows), np.arange(rows)] = 0
    sums, flat = grams.sum(axis=2), grams.reshape(experts, -1)
    totals = sums.sum(axis=1)
    hsic = flat @ flat.T + np.outer(totals, totals) / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * sums @ sums.T
    own = np.diagonal(hsic)
    varies = own > 1e-12 * max(float(own.max()), 1e-300)
    if varies.sum() < 2:
        return None
    cka = hsic[np.ix_(varies, varies)] / np.sqrt(np.outer(own[varies], own[varies]))
    return float(cka[np.triu_indices(len(cka), 1)].mean())


def collapse_warning(experts: Mapping[str, MixtureHealth], share: float, step: int) -> str | None:
    """One line on the gates that collapsed, with what to do; None where none did.

    Args:
        experts: every mixture by its module.
        share: mean weight on one expert from which a gate counts as collapsed.
        step: updates the model has had.
    """
    found = [(name, health, gates) for name, health in experts.items() if (gates := health.collapsed(share))]
    if not found:
        return None
    name, health, gates = found[0]
    gate = health.gates[gates[0]]
    weights = np.array(gate.weights)
    others = [f"{module} {task}" for module, _, tasks in found for task in tasks][1:]
    return (
        f"step {step}: the gate of {name} for {gates[0]!r} gives {weights.max():.0%} of its weight to expert "
        f"{weights.argmax()} of {len(weights)} (entropy {gate.entropy:.2f} of 1, {health.dead_experts:.0%} of the "
        f"experts dead{'; also ' + ', '.join(others) if others else ''}); expected several in use: raise model.balance "
        "(0.01 is a start) or model.dropout, lower optimizer.dense.learning_rate, or take fewer experts"
    )
