"""Imported last by the server that ranks are forked from: no rank looks for garbage among what it has imported.

`pipelines.job` does the same for a job that starts by itself.
"""

import gc

gc.freeze()
