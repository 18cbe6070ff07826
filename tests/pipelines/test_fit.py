"""What a training leaves in its run directory can be copied around."""

from __future__ import annotations

from tests.launch import run

CANARY = "canary-4711"


def test_no_secret_of_the_configuration_is_written_down(workspace, tmp_path) -> None:
    output = tmp_path / "run"
    options = [
        f"--tracking.uri=http://me:{CANARY}@127.0.0.1:9",
        "--tracking.drain_seconds=0",
        "--tracking.request_timeout=1",
        f"--data.storage_options={{'secret': '{CANARY}'}}".replace("'", '"'),
        "--training.steps=2",
        f"--output={output}",
    ]
    ended = run(tmp_path, "pipelines.train", workspace.arguments(*options), size=1)
    files = [path for path in output.rglob("*") if path.is_file()]
    assert any(path.name == "progress.json" for path in files), ended
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []
