"""Launch: torchrun, ending with the job's own exit code and without a stack trace of its own."""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from ranking.errors import EXIT_FAILURE, EXIT_STOPPED


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments, such as `--standalone --nproc-per-node 2 -m pipelines.train -c ...`.

    Returns:
        The exit code of the rank that failed first; 75 after SIGTERM; 0.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else EXIT_FAILURE
    except SignalException:
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
