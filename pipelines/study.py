"""Study: measure published figures again; `study NAME` writes docs/studies/NAME.json, its report and its figures."""

from __future__ import annotations

from pipelines.job import jobs
from pipelines.studies.synthetic.study import synthetic

main = jobs({"synthetic": synthetic})

if __name__ == "__main__":
    main()
