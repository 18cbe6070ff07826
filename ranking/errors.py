"""The errors a user can cause, and the exit codes they end in."""

from __future__ import annotations

from collections.abc import Collection

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_INPUT = 2
EXIT_NOT_PROMOTED = 3
EXIT_WAITING = 4  # passed the gate; waits for a person's approval
EXIT_BAD_DATA = 65  # EX_DATAERR: the day's data is not fit to train on
EXIT_INFRASTRUCTURE = 69  # EX_UNAVAILABLE: a service or the machine failed; the same command resumes
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by SIGTERM after a commit; the same command resumes


def first_line(error: BaseException) -> str:
    """What a library says before details or a stack; the type's name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """All of a message without its line breaks; the type's name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def described(error: BaseException) -> str:
    """A failure that nobody foresaw in one line: its type, and what it says."""
    name, text = type(error).__name__, " ".join(str(error).split())
    return f"{name}: {text}" if text else name


def listed(names: Collection[str], most: int = 10) -> str:
    """Names for a message; of many the first ones and how many more there are."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


class InputError(ValueError):
    """Bad input: one line naming the file, column, row group or config key, the value, and what was expected.

    A job that meets one prints the line and exits with code 2; a stack trace appears only under `--debug`.

    Args:
        message: the line; what breaks it, such as a file's name, is escaped.

    Attributes:
        code: exit code of the job.
    """

    code = EXIT_INPUT

    def __init__(self, message: str) -> None:
        """Keep to one line."""
        super().__init__("\\n".join(message.splitlines()))


class ServiceError(InputError):
    """A service or the machine fails the job; the input may be good, and the same command may succeed later.

    It is an InputError because it is told like one: whoever hands those on hands on this. The job exits with code 1.
    """

    code = EXIT_FAILURE


class RankZeroReportsError(InputError):
    """An InputError that rank 0 reports for all; the other ranks leave without a word.

    Args:
        message: the line.
        code: exit code of what rank 0 reports.
    """

    def __init__(self, message: str, code: int = EXIT_INPUT) -> None:
        """Keep the code."""
        super().__init__(message)
        self.code = code


class ReportedError(Exception):
    """A failure that ends the job and that the user has read; only the exit code is left to give.

    Args:
        code: exit code of the job.
    """

    def __init__(self, code: int) -> None:
        """Keep the code."""
        super().__init__(f"reported; exit code {code}")
        self.code = code
