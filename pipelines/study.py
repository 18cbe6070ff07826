"""Study: measure published figures again; `study NAME` writes docs/studies/NAME.json, its report and its figures."""

from __future__ import annotations

from pipelines.job import jobs
from pipelines.studies.architectures.impressions import impressions
from pipelines.studies.architectures.kuairand import kuairand
from pipelines.studies.architectures.live import live
from pipelines.studies.census.study import census
from pipelines.studies.synthetic.study import synthetic
from pipelines.studies.warm_start.study import warm_start

main = jobs(
    {
        "synthetic": synthetic,
        "census": census,
        "impressions": impressions,
        "live": live,
        "kuairand": kuairand,
        "warm_start": warm_start,
    }
)

if __name__ == "__main__":
    main()
