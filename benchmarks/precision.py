"""Whether bf16 costs quality: test metrics of real jobs that differ in `training.precision` alone, seed by seed.

A configuration whose data was never downloaded is left out. Finished runs are kept under runs/precision and not trained
again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import harness
from ranking.config import load

RUNS = Path("runs/precision")
CONFIGS = ("configs/quickstart.yaml", "configs/census/income.yaml")


def metrics(config: str, precision: str, seed: int) -> dict[str, float]:
    """AUC on the test rows by task, in its sample space, of the best checkpoint of a run."""
    folder = RUNS / f"{Path(config).stem}-{precision}-{seed}"
    report = folder / "report.json"
    if not report.exists():
        own = [f"--output={folder}", f"--seed={seed}", f"--training.precision={precision}"]
        own.append(f"--tracking.uri=sqlite:///{RUNS}/mlflow.db")
        RUNS.mkdir(parents=True, exist_ok=True)
        _run("train", config, *own)
    tasks = json.loads(report.read_text())["tasks"]
    return {name: task["sample_space"]["auc"] for name, task in tasks.items() if task["kind"] == "binary"}


def prepared(config: str) -> bool:
    """Whether the configuration's data is there; prepares it where only that is missing."""
    settings = load([Path(config)])
    if not Path(settings.data.transforms).exists() and Path(settings.prepare.source).exists():
        _run("prepare", config)
    if not Path(settings.data.transforms).exists():
        print(f"{config}: {settings.prepare.source} is missing: left out")
    return Path(settings.data.transforms).exists()


def _run(job: str, config: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"pipelines.{job}", "-c", config, *arguments], check=True)


def cases(config: str, seeds: range) -> list[dict[str, object]]:
    """bf16 (ours) against fp32, a figure a seed; rare labels are left out, whose AUC says more of the seed."""
    found = {precision: [metrics(config, precision, seed) for seed in seeds] for precision in ("bf16", "fp32")}
    tasks = load([Path(config)]).evaluation.tasks or tuple(found["fp32"][0])
    summaries = []
    for task in tasks:
        half, full = (np.array([run[task] for run in found[precision]]) for precision in ("bf16", "fp32"))
        case = harness.Case(f"{task}: {Path(config).stem}, {len(seeds)} seeds", "AUC", half.tolist(), full.tolist())
        summaries.append(case.summary() | {"difference_mean": float((half - full).mean())} | _spread(half, full))
    return summaries


def _spread(half: np.ndarray, full: np.ndarray) -> dict[str, object]:
    """95% interval of the paired difference, and the spread that seeds alone make."""
    from scipy import stats

    differences = half - full
    reach = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    middle = differences.mean()
    return {"difference_interval": [middle - reach, middle + reach], "seed_std": float(full.std(ddof=1))}


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=5)
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    options = parser.parse_args()
    if "bf16" not in harness.precisions():
        print("precision: this CPU only emulates bf16; nothing is measured, and the results stay as they are")
        return
    before = harness.machine()
    seeds = range(1, options.rounds + 1)
    found = [case for config in filter(prepared, options.configs) for case in cases(config, seeds)]
    harness.report("precision", before, {"seeds": options.rounds, "configs": list(options.configs)}, found)


if __name__ == "__main__":
    main()
