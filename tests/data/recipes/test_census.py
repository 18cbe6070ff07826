import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ranking.data.recipes.census import PUBLISHER, TYPES, CensusConfig, prepare_census
from ranking.errors import InputError

SHARED = Path(__file__).parents[4] / "shared/data/census_income"
ANY_FILE = CensusConfig(test_md5="")
ROW = {
    "age": 73, "class_worker": "Not in universe", "det_ind_code": 0, "det_occ_code": 0,
    "education": "High school graduate", "wage_per_hour": 0, "hs_college": "Not in universe",
    "marital_stat": "Widowed", "major_ind_code": "Not in universe or children",
    "major_occ_code": "Handlers equip cleaners etc ", "race": "White", "hisp_origin": "NA", "sex": "Female",
    "union_member": "Not in universe", "unemp_reason": "Not in universe", "full_or_part_emp": "Not in labor force",
    "capital_gains": 0, "capital_losses": 0, "stock_dividends": 0, "tax_filer_stat": "Nonfiler",
    "region_prev_res": "Not in universe", "state_prev_res": "?", "det_hh_fam_stat": "Householder",
    "det_hh_summ": "Householder", "instance_weight": 1700.09, "mig_chg_msa": "?", "mig_chg_reg": "?",
    "mig_move_reg": "?", "mig_same": "Not in universe under 1 year old", "mig_prev_sunbelt": "?", "num_emp": 0,
    "fam_under_18": "Not in universe", "country_father": "United-States", "country_mother": "United-States",
    "country_self": "United-States", "citizenship": "Native- Born in the United States", "own_or_self": 0,
    "vet_question": "Not in universe", "vet_benefits": 2, "weeks_worked": 0, "year": 95, "income_50k": "- 50000.",
}  # fmt: skip


def people(rows: int) -> pd.DataFrame:
    """Rows told apart by age, all labels of both kinds."""
    table = pd.DataFrame([ROW] * rows)
    table["age"] = np.arange(rows)
    table.loc[::2, "income_50k"] = "50000+."
    table.loc[::3, "marital_stat"] = "Never married"
    table.loc[::5, "education"] = "Associates degree-occup /vocational"
    return table


def as_text(table: pd.DataFrame) -> str:
    """The publisher's layout, down to the blank behind every comma and the shortest form of the weight."""
    columns = [pc.cast(column, pa.string()) for column in pa.Table.from_pandas(table, preserve_index=False).columns]
    return "".join(f"{line}\n" for line in pc.binary_join_element_wise(*columns, ", ").to_pylist())


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    directory = tmp_path / "parquet"
    directory.mkdir()
    people(20).to_parquet(directory / "train.parquet")
    people(11).to_parquet(directory / "test.parquet")
    return directory


@pytest.fixture
def text(tmp_path: Path) -> Path:
    directory = tmp_path / "text"
    directory.mkdir()
    (directory / "census-income.data").write_text(as_text(people(20)))
    (directory / "census-income.test").write_text(as_text(people(11)))
    return directory


def splits(directory: Path) -> dict[str, pd.DataFrame]:
    return {
        path.name.removeprefix("split="): pq.ParquetFile(path / "part-0.parquet").read().to_pandas()
        for path in sorted(directory.iterdir())
    }


def ages(source: Path, output: Path, seed: int) -> list[int]:
    prepare_census(source, output, CensusConfig(seed=seed, test_md5=""))
    return splits(output)["validation"]["age"].to_list()


def test_training_rows_stay_and_test_rows_are_halved(parquet: Path, tmp_path: Path) -> None:
    prepare_census(parquet, tmp_path / "set", CensusConfig())
    got = {name: rows["age"].to_list() for name, rows in splits(tmp_path / "set").items()}
    assert got["train"] == list(range(20))
    assert len(got["validation"]) == 5
    assert sorted(got["validation"] + got["test"]) == list(range(11))
    assert got["validation"] == sorted(got["validation"])
    assert got["test"] == sorted(got["test"])


def test_the_split_depends_on_the_seed_alone(parquet: Path, tmp_path: Path) -> None:
    # The five smallest SplitMix64 of 0 .. 10: a split that changed would move rows tested on into validation unseen.
    assert ages(parquet, tmp_path / "0", 0) == [3, 4, 5, 7, 10]
    assert ages(parquet, tmp_path / "1", 1) != ages(parquet, tmp_path / "2", 2)


def test_labels_are_made_and_what_they_are_made_of_is_gone(parquet: Path, tmp_path: Path) -> None:
    prepare_census(parquet, tmp_path / "set", CensusConfig())
    rows, source = splits(tmp_path / "set")["train"], people(20)
    assert rows["income_50k"].to_list() == (source["income_50k"] == "50000+.").to_list()
    assert rows["never_married"].to_list() == (source["marital_stat"] == "Never married").to_list()
    assert rows["college"].to_list() == (source["education"] != "High school graduate").to_list()
    assert not {"education", "marital_stat", "instance_weight"} & set(rows.columns)
    assert len(rows.columns) == 38 + 3


def test_what_is_made_of_labels_knows_of_no_other(parquet: Path, tmp_path: Path) -> None:
    """Marriage says who is rich here, and the features nothing: neither rates nor trees may tell."""
    draw = np.random.default_rng(0)
    for name in ("train", "test"):
        rich = draw.random(400) < 0.5
        table = people(400).assign(income_50k=np.where(rich, "50000+.", "- 50000."), age=draw.integers(0, 90, 400))
        table.assign(marital_stat=np.where(rich, "Never married", "Widowed")).to_parquet(parquet / f"{name}.parquet")
    trees = {"labels": ["income_50k"], "folds": 3, "iterations": 20}
    prepare_census(parquet, tmp_path / "set", CensusConfig.model_validate({"trees": trees}))
    found = splits(tmp_path / "set")["test"]
    assert abs(np.corrcoef(found.income_50k_by_trees, found.income_50k)[0, 1]) < 0.4
    for key in ("never_married", "income_50k_by_trees"):
        rates = {"labels": ["income_50k"], "keys": [[key]]}
        with pytest.raises(InputError, match=rf"recipe.rates.keys: got \['{key}'\]; expected some of"):
            prepare_census(parquet, tmp_path / key, CensusConfig.model_validate({"trees": trees, "rates": rates}))


@pytest.mark.parametrize("archived", [False, True])
def test_the_publishers_text_gives_what_parquet_gives(
    parquet: Path, text: Path, tmp_path: Path, archived: bool
) -> None:
    source = text
    if archived:
        source = tmp_path / "census.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(text, "census")
    prepare_census(source, tmp_path / "a", ANY_FILE)
    prepare_census(parquet, tmp_path / "b", ANY_FILE)
    a, b = (ds.dataset(tmp_path / name, partitioning="hive").to_table() for name in "ab")
    assert a.equals(b)
    assert set(a["hisp_origin"].to_pylist()) == {"NA"}
    assert set(a["major_occ_code"].to_pylist()) == {"Handlers equip cleaners etc "}


def test_a_test_file_that_is_not_the_publishers_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"census-income\.test: got md5 \w+; expected b82952d217858365c8e597827e3e5468"
    ):
        prepare_census(text, tmp_path / "set", CensusConfig())


def test_a_missing_file_is_named_with_its_publisher(text: Path, parquet: Path, tmp_path: Path) -> None:
    (text / "census-income.data").unlink()
    with pytest.raises(InputError, match=rf"census-income\.data: no such file; .*{PUBLISHER}"):
        prepare_census(text, tmp_path / "set", ANY_FILE)
    (parquet / "test.parquet").unlink()
    with pytest.raises(InputError, match=rf"test\.parquet: no such file; .*{PUBLISHER}"):
        prepare_census(parquet, tmp_path / "set", ANY_FILE)


def test_a_truncated_archive_is_named(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "census.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(text, "census")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"census\.tar\.gz: got .*; expected the undamaged archive"):
        prepare_census(path, tmp_path / "set", ANY_FILE)


def test_an_archive_of_something_else_is_named(parquet: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "census.tar.gz", "w:gz") as archive:
        archive.add(parquet, "census")
    with pytest.raises(InputError, match=r"census\.tar\.gz: census-income\.data: no such file in the archive"):
        prepare_census(tmp_path / "census.tar.gz", tmp_path / "set", ANY_FILE)


def test_a_missing_column_is_named(parquet: Path, tmp_path: Path) -> None:
    people(11).drop(columns="weeks_worked").to_parquet(parquet / "test.parquet")
    with pytest.raises(InputError, match=r"test\.parquet: column 'weeks_worked': missing"):
        prepare_census(parquet, tmp_path / "set", ANY_FILE)


def test_a_column_of_a_wrong_type_is_named(parquet: Path, tmp_path: Path) -> None:
    people(11).astype({"age": str}).replace({"age": "3"}, "three").to_parquet(parquet / "test.parquet")
    with pytest.raises(InputError, match=r"test\.parquet: column 'age': got .*string; expected int64 .*three"):
        prepare_census(parquet, tmp_path / "set", ANY_FILE)


@pytest.mark.parametrize(("damage", "message"), [(("73, ", ""), "41"), (("73, ", "old, "), "old")])
def test_a_broken_line_of_text_is_named(text: Path, tmp_path: Path, damage: tuple[str, str], message: str) -> None:
    line = as_text(pd.DataFrame([ROW]))
    (text / "census-income.data").write_text(as_text(people(3)) + line.replace(*damage))
    with pytest.raises(InputError, match=rf"census-income\.data: got .*{message}.*; expected 42 columns as published"):
        prepare_census(text, tmp_path / "set", ANY_FILE)
    assert not (tmp_path / "set").exists()


def test_values_that_are_not_the_publishers_give_no_silent_label(parquet: Path, tmp_path: Path) -> None:
    people(20).replace({"income_50k": "50000+."}, ">50K").to_parquet(parquet / "train.parquet")
    with pytest.raises(InputError, match=r"column 'income_50k': got .*'>50K'.* and no '50000\+\.'"):
        prepare_census(parquet, tmp_path / "set", ANY_FILE)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    if not SHARED.exists():
        pytest.skip("the complete data set is not at hand")
    output = tmp_path_factory.mktemp("census") / "set"
    prepare_census(SHARED, output, CensusConfig())
    return splits(output)


def test_the_complete_data_set_has_the_published_rates(complete: dict[str, pd.DataFrame]) -> None:
    assert {name: len(rows) for name, rows in complete.items()} == {"test": 49881, "train": 199523, "validation": 49881}
    train, test = complete["train"], pd.concat([complete["validation"], complete["test"]])
    assert [round(100 * rows["college"].mean(), 2) for rows in (train, test)] == [19.64, 19.50]
    assert [round(100 * rows["never_married"].mean(), 2) for rows in (train, test)] == [43.35, 43.25]
    assert [round(100 * rows["income_50k"].mean(), 3) for rows in (train, test)] == [6.206, 6.201]


def test_the_publishers_own_bytes_are_accepted_and_read_exactly(
    complete: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    source = pq.read_table(SHARED / "test.parquet").cast(pa.schema(list(TYPES.items())))
    (tmp_path / "census-income.test").write_text(as_text(source.to_pandas()))
    (tmp_path / "census-income.data").write_text(as_text(people(3)))
    prepare_census(tmp_path, tmp_path / "text", CensusConfig())  # refuses any md5 but the publisher's
    got = splits(tmp_path / "text")
    for name in ("validation", "test"):
        pd.testing.assert_frame_equal(got[name], complete[name])
