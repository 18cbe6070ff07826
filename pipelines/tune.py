"""Tune: search settings of the training, or powers of the score, on validation; any number of workers share a study."""

from __future__ import annotations

from datetime import timedelta

from pipelines.job import job
from pipelines.supervision import supervised
from ranking.config import RunConfig
from ranking.distributed.world import join


def tune(config: RunConfig) -> int | None:
    """Search `tune.space` with a Gaussian process, and write the best settings as an overlay.

    The same command in another terminal, or on another machine with tune.storage, is another worker of the study;
    started again it goes on. Under `launch` every trial trains on all ranks. With tune.target=fusion it searches the
    powers of the served score instead.
    """
    from pipelines.tuning.fusion import tune_fusion  # optuna takes a second, which wrong options need not wait
    from pipelines.tuning.worker import tune_model

    with (
        join(config.device, timedelta(seconds=config.training.collective_timeout)) as world,
        supervised(world, config.output / "stacks", config.training.hang_timeout),
    ):
        return tune_model(config, world) if config.tune.target == "model" else tune_fusion(config, world)


main = job(tune)

if __name__ == "__main__":
    main()
