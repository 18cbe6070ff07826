"""Study: measure published figures again; `study NAME` writes docs/studies/NAME.json, its report and its figures."""

from __future__ import annotations

from pipelines.job import jobs
from pipelines.studies.architectures.impressions import impressions
from pipelines.studies.architectures.kuairand import kuairand
from pipelines.studies.architectures.live import live
from pipelines.studies.synthetic.study import synthetic

main = jobs({"synthetic": synthetic, "impressions": impressions, "live": live, "kuairand": kuairand})

if __name__ == "__main__":
    main()
