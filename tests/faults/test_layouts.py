"""Whatever the layout, 4 real ranks end an epoch together and deliver every row once."""

from tests.faults import layouts
from tests.launch import launch


def test_200_random_layouts_complete_on_four_ranks_with_every_row_once(workspace, tmp_path) -> None:
    folders = [tmp_path / str(seed) for seed in range(200)]
    rows = [layouts.write(folder, layouts.draw(seed)) for seed, folder in enumerate(folders)]
    ranks = launch(layouts.read, 4, folders, workspace.yaml)
    delivered = [sorted(row for rank in ranks for row in rank[seed]) for seed in range(len(folders))]
    assert delivered == [list(range(count)) for count in rows]
    assert {0 if not all(rank[seed] for rank in ranks) else 1 for seed in range(200)} == {
        0,
        1,
    }  # ranks without a row too
