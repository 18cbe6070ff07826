"""What every job does before its own work."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from pipelines.job import job
from ranking.config import Settings


def test_garbage_is_collected_from_the_first_line_of_a_job_on_and_not_before(tmp_path: Path) -> None:
    imported = "import gc, sys; sys.argv = ['-m']; import pipelines; sys.exit(gc.isenabled())"
    assert subprocess.run([sys.executable, "-c", imported], check=False).returncode == 0
    found = []

    def body(config: Settings) -> None:
        found.append(gc.isenabled())

    gc.disable()
    try:
        (tmp_path / "empty.yaml").write_text("{}")
        assert CliRunner().invoke(job(body), ["-c", str(tmp_path / "empty.yaml")]).exit_code == 0
    finally:
        gc.enable()
        gc.unfreeze()
    assert found == [True]
