"""Raw rows to predictions and the score: the training's own encoder before the plain network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from ranking.data.columns import RawRows
from ranking.data.encode import Encoder, as_table
from ranking.models.base import predictions
from ranking.models.ranker import RankingModel
from ranking.schema import SCORE, Schema
from ranking.serving.artefact import Description, load
from ranking.serving.fusion import fuse

_CHUNK = 4096

Rowset = TypeVar("Rowset", pa.Table, pd.DataFrame)


@dataclass(frozen=True)
class Ranker:
    """Scores raw rows; any number of threads may share one.

    Attributes:
        description: what the artefact says of itself.
        encoder: the training's own encoder.
        model: a plain torch module in eval mode, weights mapped from the file.
    """

    description: Description
    encoder: Encoder
    model: RankingModel

    @classmethod
    def load(cls, directory: str | Path) -> Ranker:
        """Open an artefact; nothing in it is executed.

        Raises:
            InputError: a file is missing, damaged, or of another model; names it.
        """
        description, transforms, model = load(Path(directory))
        return cls(description, Encoder(description.data_schema, transforms), model)

    @property
    def schema(self) -> Schema:
        """Features and tasks."""
        return self.description.data_schema

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns a request must carry."""
        length = self.description.fusion.length
        return tuple(dict.fromkeys([*self.schema.feature_columns(), *([length.column] if length else [])]))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of an answer: every task, then the score."""
        return (*self.schema.task_names, SCORE)

    def predict(self, data: Rowset, first: int = 0) -> Rowset:
        """Score raw rows, a bounded number at a time.

        Args:
            data: N rows with at least `inputs`; lists are Python lists or arrays in a data frame's cells.
            first: number of the first row, for messages.

        Returns:
            N rows of `outputs`, all double; a data frame keeps its index.

        Raises:
            InputError: naming the column that is missing or wrong and, where a value is to blame, its row.
        """
        table = as_table(data.filter(self.inputs) if isinstance(data, pd.DataFrame) else data)
        columns = dict(zip(self.outputs, self.values(table, first).T, strict=True))
        return pd.DataFrame(columns, index=data.index) if isinstance(data, pd.DataFrame) else pa.table(columns)

    def values(self, table: pa.Table, first: int = 0) -> npt.NDArray[np.float64]:
        """Predictions and score `[N, T + 1]` of N rows, numbered from `first` on."""
        starts = range(0, max(table.num_rows, 1), _CHUNK)  # no rows, too, must have the right columns
        return torch.cat([self._chunk(table.slice(start, _CHUNK), first + start) for start in starts]).numpy()

    @torch.inference_mode()
    def _chunk(self, table: pa.Table, start: int) -> Tensor:
        index = torch.arange(start, start + table.num_rows)
        ids, lists, dense = self.encoder.features(table, index)
        values = predictions(self.model((ids, lists), dense), self.schema.tasks)
        score = fuse(values, self.schema.tasks, self.description.fusion, self._length(table, index))
        return torch.cat([values, score.unsqueeze(1)], dim=1)

    def _length(self, table: pa.Table, index: Tensor) -> Tensor | None:
        factor = self.description.fusion.length
        if factor is None:
            return None
        column = RawRows(table, index.numpy()).column(factor.column)
        values = column.finite()
        missing = np.isnan(values)
        if missing.any():
            raise column.bad(int(missing.argmax()), "a number, as fusion.length needs one")
        return torch.from_numpy(values.copy())
