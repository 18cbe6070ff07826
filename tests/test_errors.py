"""What an error says fits one line that a person reads."""

from __future__ import annotations

import pytest

from ranking.errors import listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "'a'"),
        (["a", "b", "c"], "'a', 'b', 'c'"),
        (["a", "b", "c", "d"], "'a', 'b', 'c' and 1 more"),
    ],
)
def test_of_many_names_the_first_are_listed(names: list[str], text: str) -> None:
    assert listed(names, 3) == text
