"""Launch: torchrun, ending with the job's own exit code and without a stack trace of its own."""

from __future__ import annotations

import gc
import logging
import signal
import sys

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api
from torch.distributed.run import main as torchrun

from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_STOPPED

_FINAL = (EXIT_INPUT, EXIT_STOPPED)


class Agent(LocalElasticAgent):
    """Torchrun's agent, which does not try again what would end the same way: bad input, or a stop on demand."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.is_failed() and any(failure.exitcode in _FINAL for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments, such as `--standalone --nproc-per-node 2 -m pipelines.train -c ...`.

    Returns:
        The exit code of the rank that failed first; 75 after SIGTERM; 0.
    """
    gc.enable()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    api.LocalElasticAgent = Agent  # type: ignore[misc]  # torchrun takes no agent of ours
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if all(each.exitcode < 0 for each in error.failures.values()):  # none was left to tell it
            from pipelines.job import complain  # with what takes seconds to import, and only this line needs

            complain(f"rank {rank} (pid {failure.pid}) was ended by {signal.Signals(-failure.exitcode).name}")
        return failure.exitcode if failure.exitcode > 0 else EXIT_FAILURE
    except SignalException:
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
