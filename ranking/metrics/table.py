"""The AUC@N-steps table: how each task's ranking quality grew with the steps, as text."""

from collections.abc import Sequence

from ranking.metrics.report import EvaluationReport, Kind, SpaceReport

TITLES: dict[Kind, str] = {"binary": "AUC", "regression": "R²"}


def auc_table(reports: Sequence[EvaluationReport], markdown: bool = False) -> str:
    """Lay reports out as a table: one line a step, one column a task, in the task's sample space.

    Binary tasks show the AUC ± half its confidence interval, regression tasks R²; "-" is undefined.

    Args:
        reports: one an evaluated step, in the order wanted.
        markdown: as a Markdown table; by default plain text aligned for a terminal.

    Returns:
        The lines, the heading first, without a newline at the end.
    """
    kinds = {name: task.kind for report in reports for name, task in report.tasks.items()}
    heading = ["step", *(f"{name} {TITLES[kind]}" for name, kind in kinds.items())]
    body = [[f"{report.step:,}", *(_cell(report, name) for name in kinds)] for report in reports]
    widths = [max(len(cell) for cell in column) for column in zip(heading, *body, strict=True)]
    lines = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in (heading, *body)]
    if not markdown:
        return "\n".join("  ".join(line) for line in lines)
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(report: EvaluationReport, name: str) -> str:
    """A task's headline number at one step."""
    if name not in report.tasks:
        return "-"
    task = report.tasks[name]
    space = task.sample_space
    value = space.auc if task.kind == "binary" else space.r2
    return "-" if value is None else f"{value:.4f}{_half_width(space)}"


def _half_width(space: SpaceReport) -> str:
    """Half the AUC's interval, or nothing where there is none."""
    if space.auc_interval is None:
        return ""
    low, high = space.auc_interval
    return f" ± {(high - low) / 2:.4f}"
