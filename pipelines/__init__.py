"""Jobs: each reads a configuration and does one thing."""

import gc
import sys

if sys.argv[:1] == ["-m"]:  # a job starts: imports make no garbage, and looking for it is a fifth of their time
    gc.disable()  # `job.collect_garbage` undoes it, and `launch`

from ranking.distributed.fbgemm import check_importable
from ranking.distributed.world import speaks
from ranking.errors import EXIT_INPUT, InputError

try:
    check_importable()  # here, because most jobs import TorchRec, and with it the build that may not load
except InputError as error:
    if speaks():
        sys.stderr.write(f"error: {error}\n")
    sys.exit(EXIT_INPUT)
