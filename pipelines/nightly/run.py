"""One night from where it stands to its outcome; every stage is committed, every failure has a name."""

from __future__ import annotations

import logging
import time

from pipelines.nightly.night import Night, Outcome
from pipelines.nightly.stages import Stages
from pipelines.nightly.worker import NightStoppedError, SigtermGuard, WorkerError
from ranking.errors import InputError, ServiceError, one_line
from ranking.promotion.registry import RegistryError
from ranking.redact import redact_text

log = logging.getLogger(__name__)


def run(stages: Stages, stop: SigtermGuard) -> Night:
    """Go on with a night until it has an outcome.

    A finished one is returned as it is. Data found bad is looked at again: it may have been mended.
    """
    night = Night.load(stages.folder) or Night(day=stages.day)
    if not night.finished:
        night = night.model_copy(update={"outcome": None, "reason": "", "tracked": False, "reported": False})
    while night.outcome is None:
        night = _step(night, stages, stop)
        night.save(stages.folder)
    return night


def _step(night: Night, stages: Stages, stop: SigtermGuard) -> Night:
    """One stage, or how it failed."""
    stage, work = stages.after(night.stage)
    began = time.monotonic()
    try:
        with stop.ends():
            after = work(night)
    except Exception as error:
        if _outcome(error) == "fault":
            log.exception("a fault of ours")
        reason = redact_text(one_line(error))
        return night.model_copy(update={"outcome": _outcome(error), "reason": f"{stage}: {reason}"})
    if after.outcome == "bad_data":
        return after
    seconds = night.seconds | {stage: round(time.monotonic() - began, 1)}
    return after.model_copy(update={"stage": stage, "seconds": seconds})


def _outcome(error: Exception) -> Outcome:
    """What kind of failure an exception is."""
    if isinstance(error, NightStoppedError):
        return "stopped"
    if isinstance(error, ServiceError | RegistryError | WorkerError | OSError):
        return "infrastructure"
    return "bad_input" if isinstance(error, InputError) else "fault"
