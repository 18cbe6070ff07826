"""UCI Census-Income (KDD), as MMoE section 4.3 uses it: which columns, which labels, which split.

Publisher: UCI Machine Learning Repository, data set 117, doi 10.24432/C5N30T, CC BY 4.0.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from pydantic import Field

from ranking.data.hashing import hash_keys
from ranking.data.recipes.rates import RatesConfig, append_rates
from ranking.data.recipes.tables import read_table
from ranking.data.recipes.trees import TreesConfig, append_trees
from ranking.data.writer import WriterConfig, write_dataset
from ranking.errors import InputError, first_line

PUBLISHER = "https://archive.ics.uci.edu/dataset/117"

_COLUMNS = (
    "age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat major_ind_code "
    "major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp capital_gains capital_losses "
    "stock_dividends tax_filer_stat region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight "
    "mig_chg_msa mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp fam_under_18 country_father "
    "country_mother country_self citizenship own_or_self vet_question vet_benefits weeks_worked year income_50k"
).split()
_INTEGERS = (
    "age det_ind_code det_occ_code wage_per_hour capital_gains capital_losses stock_dividends num_emp own_or_self "
    "vet_benefits weeks_worked year"
).split()
TYPES = (
    dict.fromkeys(_COLUMNS, pa.large_string())
    | dict.fromkeys(_INTEGERS, pa.int64())
    | {"instance_weight": pa.float64()}
)

# Label: (column it is made of, its positive values). None of these columns is written, nor is the survey weight.
_LABELS = {
    "income_50k": ("income_50k", ["50000+."]),
    "never_married": ("marital_stat", ["Never married"]),
    "college": (
        "education",
        [
            "Associates degree-occup /vocational",
            "Associates degree-academic program",
            "Bachelors degree(BA AB BS)",
            "Masters degree(MA MS MEng MEd MSW MBA)",
            "Prof school degree (MD DDS DVM LLB JD)",
            "Doctorate degree(PhD EdD)",
        ],
    ),
}
_NEVER_FEATURES = ("income_50k", "marital_stat", "education", "instance_weight")


class CensusConfig(WriterConfig):
    """The `census` recipe."""

    type: Literal["census"] = "census"
    seed: int = Field(0, description="Of the random 1:1 split of the publisher's test rows.")
    test_md5: str = Field(
        "b82952d217858365c8e597827e3e5468",
        description="Of the publisher's `census-income.test`; empty: any file will do.",
    )
    rates: RatesConfig | None = Field(None, description="Rates of labels among training rows, as columns.")
    trees: TreesConfig | None = Field(None, description="Log-odds of boosted trees grown on training rows, as columns.")


def prepare_census(source: Path, output: Path, config: CensusConfig) -> None:
    """Write `<output>/split={train,validation,test}/`: 38 features, rates and trees' log-odds, three labels.

    Rows keep their first order.

    Args:
        source: directory with `train.parquet` and `test.parquet`, or with the publisher's `census-income.data` and
            `census-income.test`, or with `census.tar.gz`; or that archive itself.
        output: new directory.
        config: seed and layout.

    Raises:
        InputError: a file is missing, damaged or not the publisher's, lacks a column, or has one of another type; or
            rates or trees name a column that there is not.
    """
    train, test = _read(source, config)
    validation = _half(test.num_rows, config.seed)
    splits = {"train": train, "validation": test.filter(validation), "test": test.filter(pc.invert(validation))}
    splits = {name: _labelled(rows, source) for name, rows in splits.items()}
    hidden = set(_LABELS)
    if config.trees:
        splits = append_trees(splits, config.trees, hidden)
        hidden.update(name for label in config.trees.labels for name in config.trees.columns(label))  # know of labels
    if config.rates:
        splits = append_rates(splits, config.rates, hidden)
    tables = (rows.append_column("split", pa.repeat(name, len(rows))) for name, rows in splits.items())
    write_dataset(tables, output, "split", config)


def _read(source: Path, config: CensusConfig) -> tuple[pa.Table, pa.Table]:
    if (source / "train.parquet").exists() or (source / "test.parquet").exists():
        train, test = (read_table(source / f"{split}.parquet", TYPES, PUBLISHER) for split in ("train", "test"))
        return train, test
    texts = {name: _published(source, name) for name in ("census-income.data", "census-income.test")}
    md5 = hashlib.md5(texts["census-income.test"], usedforsecurity=False).hexdigest()
    if config.test_md5 not in ("", md5):
        raise InputError(f"{source}: census-income.test: got md5 {md5}; expected {config.test_md5} as published")
    train, test = (_parse(source, name, text) for name, text in texts.items())
    return train, test


def _published(source: Path, name: str) -> bytes:
    """Content of a text file of the publisher's, unpacked or still in the archive."""
    if (source / name).exists():
        return (source / name).read_bytes()
    archive = source if source.is_file() else source / "census.tar.gz"
    if not archive.exists():
        raise InputError(
            f"{source / name}: no such file; expected it or census.tar.gz from {PUBLISHER}, or train and test.parquet"
        )
    try:
        with tarfile.open(archive) as tar:
            file = next((tar.extractfile(m) for m in tar if PurePosixPath(m.name).name == name), None)
            if file is not None:
                return file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{archive}: got {str(error)!r}; expected the undamaged archive from {PUBLISHER}") from None
    raise InputError(f"{archive}: {name}: no such file in the archive; expected census.tar.gz from {PUBLISHER}")


def _parse(source: Path, name: str, raw: bytes) -> pa.Table:
    """The publisher's text: 42 values a line, separated by comma and blank; trailing blanks belong to the value."""
    try:
        table = csv.read_csv(
            io.BytesIO(raw),
            read_options=csv.ReadOptions(column_names=_COLUMNS),
            parse_options=csv.ParseOptions(quote_char=False),
            convert_options=csv.ConvertOptions(column_types=TYPES, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        reason = first_line(error)
        raise InputError(f"{source}: {name}: got {reason!r}; expected {len(_COLUMNS)} columns as published") from None
    strings = (pa.types.is_large_string(kind) for kind in TYPES.values())
    trimmed = [pc.utf8_ltrim_whitespace(c) if s else c for c, s in zip(table.columns, strings, strict=True)]
    return pa.table(trimmed, names=_COLUMNS)


def _half(rows: int, seed: int) -> pa.Array:
    """`[rows]` bool, true for half of them (rounded down): the smallest hashes of the row numbers."""
    order = np.argsort(hash_keys(pa.array(np.arange(rows)), seed))
    chosen = np.zeros(rows, np.bool_)
    chosen[order[: rows // 2]] = True
    return pa.array(chosen)


def _labelled(table: pa.Table, source: Path) -> pa.Table:
    labels = {name: _label(table, source, *rule) for name, rule in _LABELS.items()}
    features = table.drop_columns(list(_NEVER_FEATURES))
    for name, values in labels.items():
        features = features.append_column(name, values)
    return features


def _label(table: pa.Table, source: Path, column: str, positives: list[str]) -> pa.ChunkedArray:
    label = pc.is_in(pc.utf8_trim_whitespace(table[column]), pa.array(positives, pa.large_string()))
    if len(label) and not pc.any(label).as_py():
        got = pc.unique(table[column])[:3].to_pylist()
        raise InputError(
            f"{source}: column {column!r}: got {got} and no {positives[0]!r}; expected values as published"
        )
    return label
