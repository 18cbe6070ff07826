"""Which days a night reads, and how its section is checked."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from pydantic import ValidationError

from ranking.training.nightly import RetrainConfig

DAY = date(2022, 5, 7)


def test_the_window_ends_at_the_date_and_is_whole() -> None:
    assert RetrainConfig(window=3).days(DAY) == (date(2022, 5, 5), date(2022, 5, 6), DAY)
    assert RetrainConfig(window=2).days(date(2022, 3, 1)) == (date(2022, 2, 28), date(2022, 3, 1))


def test_the_date_goes_into_every_place_of_a_url() -> None:
    config = RetrainConfig(partition="s3://log/{date}/part-{date}.parquet")
    assert config.url(DAY) == "s3://log/2022-05-07/part-2022-05-07.parquet"


@pytest.mark.parametrize("key", ["partition", "marker"])
def test_a_url_without_a_date_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=r"expected \{date\} in it"):
        RetrainConfig(**{key: "s3://log/today/"})


@pytest.mark.parametrize(("every", "expected"), [(0, 0), (1, 28), (7, 4)])
def test_from_scratch_comes_round_every_so_many_days(every: int, expected: int) -> None:
    config = RetrainConfig(scratch_every=every)
    assert sum(config.from_scratch(DAY + timedelta(days=day)) for day in range(28)) == expected
