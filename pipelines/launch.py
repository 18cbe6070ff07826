"""Launch: torchrun, ending with the job's own exit code and without a stack trace of its own."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Mapping

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import DEFAULT_ROLE, RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api
from torch.distributed.run import main as torchrun

from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_OK, EXIT_STOPPED, first_line

_FINAL = (EXIT_INPUT, EXIT_STOPPED)
_AS_ASKED = (EXIT_OK, EXIT_STOPPED, -signal.SIGTERM)
"""How a worker ends that SIGTERM has reached; it dies of it only where there is nothing to commit."""


class AgentStoppedError(SignalException):
    """A signal ended the agent, which has waited for its workers.

    Args:
        stop: the signal.
        failures: by rank, workers that did not end as they were asked to.
    """

    def __init__(self, stop: SignalException, failures: Mapping[int, ProcessFailure]) -> None:
        """Keep both."""
        super().__init__(str(stop), stop.sigval)
        self.failures = failures


class Agent(LocalElasticAgent):
    """Torchrun's agent, which does not try again what would end the same way: bad input, or a stop on demand."""

    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end.

        Raises:
            StoppedError: a signal came.
        """
        try:
            return super().run(role)
        except SignalException as stop:
            raise AgentStoppedError(stop, self._failures()) from None

    def _failures(self) -> dict[int, ProcessFailure]:
        """Workers that the signal did not stop: killed after the time they had, or ended with a fault of their own."""
        found = {}
        if isinstance(self._pcontext, SubprocessContext):
            for rank, handler in self._pcontext.subprocess_handlers.items():
                code = handler.proc.poll()
                if code not in _AS_ASKED:
                    dies = -signal.SIGKILL  # with this process
                    found[rank] = ProcessFailure(rank, handler.proc.pid, dies if code is None else code, "")
        return {self._worker_group.workers[rank].global_rank: failure for rank, failure in found.items()}

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.is_failed() and any(failure.exitcode in _FINAL for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments, such as `--standalone --nproc-per-node 2 -m pipelines.train -c ...`.

    Returns:
        The exit code of the rank that failed first, 1 where a signal ended it or the ranks could not meet; 75 after
        SIGTERM, which all ranks obeyed; 0.
    """
    gc.enable()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    api.LocalElasticAgent = Agent  # type: ignore[misc]  # torchrun takes no agent of ours
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        return _failed(error.failures)
    except AgentStoppedError as stop:
        return _failed(stop.failures) if stop.failures else EXIT_STOPPED
    except (DistError, RendezvousError) as error:
        reason = first_line(error.__cause__ or error)
        _complain(f"rendezvous: {reason}; expected a free port, and one address that all hosts reach")
        return EXIT_FAILURE
    except SignalException:  # before the ranks began, or after they ended
        return EXIT_STOPPED
    return EXIT_OK


def _failed(failures: Mapping[int, ProcessFailure]) -> int:
    """The code of the first failure, which is told where no rank was left to tell it."""
    rank, failure = min(failures.items(), key=lambda each: each[1].timestamp)
    if all(each.exitcode < 0 for each in failures.values()):
        _complain(f"rank {rank} (pid {failure.pid}) was ended by {signal.Signals(-failure.exitcode).name}")
    return failure.exitcode if failure.exitcode > 0 else EXIT_FAILURE


def _complain(line: str) -> None:
    from pipelines.job import complain  # with what takes seconds to import, and only this line needs

    complain(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
