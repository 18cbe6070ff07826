"""The AUC@N-steps table reads well in a terminal and in Markdown."""

from ranking.metrics import EvaluationReport, SpaceReport, TaskReport, auc_table


def task(kind: str, **metrics) -> TaskReport:
    """A task whose entire space must not show in the table."""
    entire = SpaceReport(rows=99, auc=0.9999, r2=0.9999)
    return TaskReport(kind=kind, sample_space=SpaceReport(rows=9, **metrics), entire_space=entire)


REPORTS = [
    EvaluationReport(
        step=500,
        tasks={
            "click": task("binary", auc=0.71234, auc_interval=(0.70, 0.72)),
            "like": task("binary", undefined="3 positives in 9 rows, 10 needed"),
            "watch": task("regression", r2=-0.25),
        },
    ),
    EvaluationReport(step=1000, tasks={"click": task("binary", auc=0.75), "like": task("binary", auc=0.6)}),
]


def test_plain_text_is_aligned():
    assert auc_table(REPORTS).splitlines() == [
        " step        click AUC  like AUC  watch R²",
        "  500  0.7123 ± 0.0100         -   -0.2500",
        "1,000           0.7500    0.6000         -",
    ]


def test_markdown_is_a_table():
    assert auc_table(REPORTS, markdown=True).splitlines() == [
        "|  step |       click AUC | like AUC | watch R² |",
        "| ----: | --------------: | -------: | -------: |",
        "|   500 | 0.7123 ± 0.0100 |        - |  -0.2500 |",
        "| 1,000 |          0.7500 |   0.6000 |        - |",
    ]


def test_no_reports_leave_the_heading():
    assert auc_table([]) == "step"
