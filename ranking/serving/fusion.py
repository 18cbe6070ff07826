"""One score to rank by: a product of powers of the predictions [PLE, section 3.1]."""

from __future__ import annotations

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from ranking.errors import InputError
from ranking.schema import Frozen, Task

FLOOR = 1e-12
_LARGEST = 700.0  # exp(700) is about 1e304: the score stays finite and positive in float64


class LengthFactor(Frozen):
    """The factor f(video length) = length^power."""

    column: str = Field(min_length=1, description="Column of the request that holds the length, in any unit.")
    power: FiniteFloat = Field(1.0, description="0 leaves the length out.")


class FusionConfig(Frozen):
    """How predictions become one score: score = prod_k p_k^(w_k) * f(video length)."""

    powers: dict[str, FiniteFloat] = Field(
        {}, description="Exponent w_k of every task that counts; empty: 1 for every binary task."
    )
    length: LengthFactor | None = Field(None, description="Factor of the video's length; left out: none.")

    def exponents(self, tasks: tuple[Task, ...]) -> tuple[float, ...]:
        """w_k of each of the T tasks in schema order; 0 for a task that does not count.

        With neither powers nor a binary task, every task counts once.

        Raises:
            InputError: a power of a task that does not exist.
        """
        names = [task.name for task in tasks]
        for name in self.powers:
            if name not in names:
                raise InputError(f"fusion.powers.{name}: unknown task; expected some of {names}")
        binary = [task.name for task in tasks if task.kind == "binary"]
        powers = self.powers or dict.fromkeys(binary or names, 1.0)
        return tuple(powers.get(name, 0.0) for name in names)


def fuse(predictions: Tensor, tasks: tuple[Task, ...], config: FusionConfig, length: Tensor | None = None) -> Tensor:
    """The score, computed in log space.

    A regression prediction enters on its natural scale. Every factor is at least 1e-12, so that a prediction of zero
    (or a regression below it) makes the score tiny, not zero or, under a negative power, infinite.

    Args:
        predictions: `[N, T]` probabilities and regression values, columns in schema order.
        tasks: the T tasks.
        config: the `fusion` section.
        length: `[N]` values of `config.length.column`; needed where the section sets it.

    Returns:
        `[N]` float64, positive and finite where the predictions are.

    Raises:
        InputError: a power of a task that does not exist.
    """
    powers = torch.tensor(config.exponents(tasks), dtype=torch.float64)
    logarithm = _log(predictions) @ powers
    if config.length is not None:
        if length is None:
            raise InputError(f"fusion.length.column: no values of {config.length.column!r}; expected one a row")
        logarithm = logarithm + config.length.power * _log(length)
    return logarithm.clamp(-_LARGEST, _LARGEST).exp()


def _log(values: Tensor) -> Tensor:
    return values.double().clamp(min=FLOOR).log()
