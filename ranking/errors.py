"""The errors a user can cause, and the exit codes they end in."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_INPUT = 2
EXIT_NOT_PROMOTED = 3
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by SIGTERM after a commit; the same command resumes


class InputError(ValueError):
    """Bad input: one line naming the file, column, row group or config key, the value, and what was expected.

    A job that meets one prints the line and exits with code 2; a stack trace appears only under `--debug`.
    """


class ToldError(InputError):
    """An InputError that rank 0 reports for all; the other ranks leave without a word."""
