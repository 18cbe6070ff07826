"""The vocabulary of the project: features, tables, tasks and their sample spaces, validated and frozen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import permutations
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator
from torch.nn import ModuleDict, ParameterDict

from ranking.expression import Expression

MAX_ROWS = 1 << 31
"""Of a table: ids are 32-bit."""

SCORE = "score"
"""The name of what serving ranks by, beside the tasks' own predictions."""

NO_USER = -(1 << 63)
"""The group of rows whose user is null: they are no one user's, so that GAUC leaves them out."""

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")

Name = Annotated[str, Field(pattern=_NAME.pattern)]


class Frozen(BaseModel):
    """Base of every config section: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class _Column(Frozen):
    name: Name = Field(description="Of the feature: letters, digits and _; any other column name goes into `column`.")
    column: str = Field("", description="Parquet column read; the feature's own name when left out.")

    @field_validator("name", mode="before")
    @classmethod
    def _may_differ_from_the_column(cls, name: object) -> object:
        """Say how to read a column whose name cannot be a feature's: tables and metrics are called after those."""
        if isinstance(name, str) and not _NAME.match(name):
            raise ValueError(
                f"got {name!r}; expected a letter, then letters, digits or _; a column of any name is read by "
                f"`name: a_name, column: {json.dumps(name, ensure_ascii=False)}`"
            )
        return name

    @property
    def source(self) -> str:
        """Name of the Parquet column that feeds this feature."""
        return self.column or self.name


class DenseFeature(_Column):
    """A number, scaled and handed to the network as it is.

    Order of operations: null or NaN handling, `log1p` (of the magnitude, keeping the sign), `scale`.
    """

    kind: Literal["dense"] = "dense"
    log1p: bool = Field(False, description="Compress with sign(x) * log(1 + |x|) before scaling.")
    scale: Literal["none", "minmax", "standardise", "piecewise"] = Field(
        "minmax",
        description="minmax: to [0, 1] by the fitted range, clipped; standardise: zero mean, unit variance; piecewise: "
        "an input for each of `pieces`, 0 below the piece, 1 above, linear inside [Gorishniy et al., NeurIPS 2022].",
    )
    pieces: int = Field(16, ge=2, le=4096, description="Pieces that quantiles cut the range into; piecewise only.")
    null: Literal["mean", "zero", "reject"] = Field(
        "mean", description="What a null or NaN becomes: the fitted mean, 0, or an error."
    )
    indicator: bool = Field(False, description="Append a second input that is 1 where the value was missing.")

    @property
    def width(self) -> int:
        """Number of inputs the feature contributes."""
        return (self.pieces if self.scale == "piecewise" else 1) + self.indicator


class Identity(Frozen):
    """Integer ids used as table rows directly."""

    type: Literal["identity"] = "identity"
    out_of_range: Literal["reject", "modulo"] = Field(
        "reject",
        description="An id outside [0, rows): an error naming the column, or wrapped into the table (counted).",
    )


class Hashed(Frozen):
    """Integers or strings hashed into rows 1 .. rows-1; row 0 stands for null."""

    type: Literal["hash"] = "hash"
    seed: int = Field(0, description="Another seed lets other ids collide.")


class Vocabulary(Frozen):
    """Values seen at least `min_count` times get their own row, most frequent first; row 0 is unknown and null."""

    type: Literal["vocabulary"] = "vocabulary"
    min_count: int = Field(1, ge=1, description="Rarer values share the row of unknown ones.")


class Bucketised(Frozen):
    """A number put into buckets at fitted quantiles or at given boundaries; row 0 stands for null."""

    type: Literal["bucketise"] = "bucketise"
    buckets: int = Field(16, ge=2, le=1 << 20, description="Quantile buckets to fit when `boundaries` is left out.")
    boundaries: tuple[FiniteFloat, ...] = Field((), description="Where buckets begin, rising; empty: quantiles.")


Encoding = Annotated[Identity | Hashed | Vocabulary | Bucketised, Field(discriminator="type")]


class CategoricalFeature(_Column):
    """An id, or a list of ids (multi-hot), looked up in an embedding table and pooled to one vector."""

    kind: Literal["categorical"] = "categorical"
    table: Name | Literal[""] = Field(
        "", description="Embedding table; its own, named after the feature, when left out."
    )
    encoding: Encoding = Field(Hashed(), description="From raw ids to rows of the table.")
    multi_hot: bool = Field(False, description="The column holds lists of ids.")
    pooling: Literal["sum", "mean", "sqrtn"] = Field("sum", description="How the vectors of a list become one.")
    weights: str = Field(
        "", description="Column of per-id weights, a list as long as the ids'; for `mean`, none below 0."
    )

    @property
    def table_name(self) -> str:
        """Name of the embedding table the feature looks up."""
        return self.table or self.name

    @property
    def weighted(self) -> bool:
        """Whether ids carry a weight other than one."""
        return bool(self.weights) or (self.multi_hot and self.pooling != "sum")

    @model_validator(mode="after")
    def _only_lists_are_pooled(self) -> Self:
        if not self.multi_hot and (self.weights or self.pooling != "sum"):
            raise ValueError("`pooling` and `weights` need `multi_hot: true`")
        return self


Feature = Annotated[DenseFeature | CategoricalFeature, Field(discriminator="kind")]


class Table(Frozen):
    """One embedding table; `None` fields take the value of the run's defaults."""

    rows: int | None = Field(None, ge=2, le=MAX_ROWS, description="Left out: what vocabulary or buckets need.")
    dim: int | None = Field(None, ge=1, le=1 << 16, description="Width of a row; left out: `schema.embedding_dim`.")
    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] | None = Field(
        None, description="Left out: `optimizer.sparse.type`."
    )
    learning_rate: float | None = Field(None, gt=0, description="Left out: `optimizer.sparse.learning_rate`.")
    init_scale: float | None = Field(
        None, ge=0, description="Rows start uniform in [-s, s]; left out: s = 1 / sqrt(rows)."
    )
    sharding: Literal[
        "auto", "data_parallel", "table_wise", "column_wise", "table_column_wise", "row_wise", "table_row_wise"
    ] = Field("auto", description="How the planner may place the table on the ranks, in TorchRec's words.")


class ColumnSpace(Frozen):
    """A sample space given by a boolean column or expression."""

    column: Expression = Field(description="True where a row belongs to the space.")


SampleSpace = str | ColumnSpace


class Task(Frozen):
    """Label + sample space + loss + weight + group.

    `given` is the sample space: `all`, the name of another task (its positives, inside its own space),
    or `{column: expression}`. Rows outside it neither train the task nor score it [PLE, section 4.4].
    """

    name: Name = Field(description="Of the task; names its column of predictions.")
    label: Expression = Field(description="A column, or an expression such as log1p(play_time_ms / 1000).")
    loss: Literal["bce", "mse", "huber"] = Field("bce", description="bce: labels 0 and 1; else a regression.")
    group: Literal["engagement", "satisfaction"] = Field("engagement", description="For reports: which kind of signal.")
    given: SampleSpace = Field("all", description="Sample space: all, a task's positives, or `{column: expression}`.")
    weight: float = Field(1.0, ge=0, description="w0 of the schedule w0 * gamma^t.")
    gamma: float = Field(1.0, gt=0, description="Ratio of the weight's schedule; 1 keeps it constant.")

    @property
    def kind(self) -> Literal["binary", "regression"]:
        """Binary tasks predict a probability, regression tasks a value."""
        return "binary" if self.loss == "bce" else "regression"


class Schema(Frozen):
    """Everything the code knows about the columns of one data set."""

    features: tuple[Feature, ...] = Field(min_length=1, description="What the network sees of a row.")
    tasks: tuple[Task, ...] = Field(min_length=1, description="What it predicts, in the order of its outputs.")
    tables: dict[Name, Table] = Field({}, description="Embedding tables by name; one left out has all defaults.")
    embedding_dim: int = Field(16, ge=1, le=1 << 16, description="Width of the tables that say no other.")
    user: str = Field("", description="Column that GAUC groups by, rows where it is null left out; no column: no GAUC.")

    @property
    def dense(self) -> tuple[DenseFeature, ...]:
        """Dense features in declared order."""
        return tuple(f for f in self.features if isinstance(f, DenseFeature))

    @property
    def categorical(self) -> tuple[CategoricalFeature, ...]:
        """Categorical features in declared order."""
        return tuple(f for f in self.features if isinstance(f, CategoricalFeature))

    @property
    def task_names(self) -> tuple[str, ...]:
        """Task names in the order of every `[B, T]` tensor."""
        return tuple(task.name for task in self.tasks)

    @property
    def dense_width(self) -> int:
        """Width D of the dense block `[B, D]`, missing-value indicators included."""
        return sum(feature.width for feature in self.dense)

    @property
    def embedding_width(self) -> int:
        """Width of all pooled embeddings concatenated in feature order."""
        return sum(self.dim(feature.table_name) for feature in self.categorical)

    @property
    def input_width(self) -> int:
        """Width of x `[B, D]`: embeddings first, then the dense block."""
        return self.embedding_width + self.dense_width

    @property
    def weighted(self) -> bool:
        """Whether any feature needs per-id weights (then all carry them)."""
        return any(feature.weighted for feature in self.categorical)

    def task(self, name: str) -> Task:
        """The task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def table(self, name: str) -> Table:
        """Declared settings of a table, or the defaults."""
        return self.tables.get(name, Table())

    def table_names(self) -> tuple[str, ...]:
        """Every table in order of first use."""
        return tuple(dict.fromkeys(feature.table_name for feature in self.categorical))

    def dim(self, table: str) -> int:
        """Embedding width of a table."""
        return self.table(table).dim or self.embedding_dim

    def columns(self) -> tuple[str, ...]:
        """Every Parquet column the schema reads, labels included."""
        return tuple(dict.fromkeys([*self.feature_columns(), *self._label_columns()]))

    def feature_columns(self) -> tuple[str, ...]:
        """The columns a serving request must carry."""
        names = [f.source for f in self.features] + [f.weights for f in self.categorical if f.weights]
        return tuple(dict.fromkeys(names))

    def chain(self, task: Task) -> Iterator[Task]:
        """The tasks whose positives bound the sample space of `task`, nearest first."""
        while isinstance(task.given, str) and task.given != "all":
            task = self.task(task.given)
            yield task

    def _label_columns(self) -> Iterator[str]:
        for task in self.tasks:
            yield from task.label.columns
            if isinstance(task.given, ColumnSpace):
                yield from task.given.column.columns
        if self.user:
            yield self.user

    @model_validator(mode="after")
    def _check(self) -> Self:
        _unique("feature", [feature.name for feature in self.features])
        _unique("task", list(self.task_names))
        for name in self.tables:
            if name not in self.table_names():
                raise ValueError(f"tables.{name}: no feature looks it up; expected one of {list(self.table_names())}")
        for name in self.table_names():
            if hasattr(ModuleDict, name) or hasattr(ParameterDict, name):
                raise ValueError(f"table {name!r}: torch reserves that name; set `table` of the feature to another one")
        for name in {"all", SCORE}.intersection(self.task_names):
            raise ValueError(
                f"tasks: got the name {name!r}; expected another one, it is the entire space or the fusion"
            )
        for name, other in permutations(self.task_names, 2):
            if f"{name}__".startswith(f"{other}__"):  # what copies of the tables are named by, see `table_of`
                raise ValueError(f"tasks: got {name!r} beside {other!r}; expected no name that begins like {other}__")
        for task in self.tasks:
            self._check_given(task)
        return self

    def _check_given(self, task: Task) -> None:
        path, given = [task.name], task.given
        while isinstance(given, str) and given != "all":
            if given not in self.task_names:
                expected = ["all", *self.task_names]
                raise ValueError(f"task {path[-1]}: given: unknown task {given!r}; expected one of {expected}")
            if given in path:
                raise ValueError(f"task {task.name}: given: cycle {' -> '.join([*path, given])}; expected a chain")
            parent = self.task(given)
            if parent.kind != "binary":
                raise ValueError(
                    f"task {path[-1]}: given: {given!r} is a regression task; only positives bound a space"
                )
            path.append(given)
            given = parent.given


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is declared twice; expected unique names")
