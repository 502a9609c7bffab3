"""What can go wrong, sorted by what the reader should do next.

WorkerError
├── SettingsError          correct the environment or the command, start again       exit 2
├── DatabaseError          the database refused a statement                           exit 1
│   ├── Unreachable        the database is out of reach: the same call may work soon
│   ├── SchemaError        the tables and functions are missing or of another version exit 3
│   └── Busy               a table is locked as a whole: the same claim may work soon
├── ProviderRefused        key, quota or model: every job goes back untouched         exit 4
├── Transient              the same call may work later: the job is rescheduled       exit 1
└── Rejected               the same text will be refused again: the job is failed
"""

from __future__ import annotations


class WorkerError(Exception):
    """One line of cause, one line of cure. `exit_code` is that of a command it ends."""

    exit_code = 1

    def __init__(self, cause: str, hint: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


class SettingsError(WorkerError):
    """The environment or the arguments are not usable as they are."""

    exit_code = 2


class DatabaseError(WorkerError):
    """The database cannot be reached, or refused what it was asked."""


class Unreachable(DatabaseError):
    """The database is restarting, out of reach, or out of room; the same call may work soon."""


class SchemaError(DatabaseError):
    """The SQL API is missing from this database, or older or newer than this worker."""

    exit_code = 3


class Busy(DatabaseError):
    """All that is due lies in tables that another session has locked as a whole."""


class ProviderRefused(WorkerError):
    """The provider will refuse every call until somebody acts: key, quota, model, width."""

    exit_code = 4


class Transient(WorkerError):
    """The provider failed in a way that passes: rate limit, outage, time-out, garbled answer.

    `retry_after` is how many seconds the provider asked to be left alone, if it said so.
    `of_the_input`: one of the texts may be what it failed over, as with an internal error.
    """

    def __init__(
        self, cause: str, *, retry_after: float | None = None, of_the_input: bool = False
    ) -> None:
        super().__init__(cause, "Nothing is lost: the jobs are due again by themselves.")
        self.retry_after = retry_after
        self.of_the_input = of_the_input


class Rejected(WorkerError):
    """The provider refuses this input. `error_class` names the reason in the queue.

    `share` is what part of a text that is too long the model would take, if the provider said so.
    """

    def __init__(
        self, cause: str, *, error_class: str = "rejected", share: float | None = None
    ) -> None:
        super().__init__(cause)
        self.error_class = error_class
        self.share = share
