"""The errors of the worker, sorted by what the reader should do next.

WorkerError
├── SettingsError          correct the environment or the command, start again       exit 2
│   └── SessionMissing     a pooler in transaction mode: use a direct connection
├── Paused                 nothing was done: `worker pause` is in force                exit 5
├── CallerRefused          who calls the HTTP API has no valid token, or no right     exit 1
├── DatabaseError          the database refused a statement                           exit 1
│   ├── Unreachable        the database is out of reach: the same call may work soon
│   │   └── StatementTimeout  it ended a statement that took too long: half of it may work
│   ├── SchemaError        the tables and functions are missing or of another version exit 3
│   └── Busy               a table is locked as a whole: the same claim may work soon
├── ProviderError          a call of a model failed
│   ├── ProviderRefused    key, quota or model: every job is released                 exit 4
│   ├── Transient          the same call may work later: the job is rescheduled       exit 1
│   └── Rejected           the same text will be refused again: the job is failed
├── AdoptionRefused        stored vectors are not those of the model                  exit 1
├── BackupError            a backup, or where backups are, cannot be used             exit 1
│   └── BackupDamaged      it is unfinished, or not what was written: it is not used  exit 1
└── ParseFailure           a file has no text that can be read: its job is failed
"""

from __future__ import annotations

from collections.abc import Sequence


class WorkerError(Exception):
    """One line of cause, one line of hint. `exit_code` is that of a command it ends."""

    exit_code = 1

    def __init__(self, cause: str, hint: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


class SettingsError(WorkerError):
    """The environment or the arguments are not usable as they are.

    The worker found that, or our SQL API raised it on purpose: no other error of the database is
    a SettingsError.
    """

    exit_code = 2


class SessionMissing(SettingsError):
    """The connection leads through a pooler in transaction mode, and what was to run needs a
    session of its own. `script`: the lines that psql can run over one."""

    def __init__(self, cause: str, hint: str | None = None, script: Sequence[str] = ()) -> None:
        super().__init__(cause, hint)
        self.script = script


class Paused(WorkerError):
    """Workers are paused, so nothing was done."""

    exit_code = 5


class CallerRefused(WorkerError):
    """Somebody calls in their own name with a token that is not valid, or without the right.

    `is_known`: the token is valid, but its owner may not do that.
    """

    def __init__(self, cause: str, hint: str | None = None, *, is_known: bool = False) -> None:
        super().__init__(cause, hint)
        self.is_known = is_known


class DatabaseError(WorkerError):
    """The database cannot be reached, or refused a statement: then its SQLSTATE is in the cause."""


class Unreachable(DatabaseError):
    """The database is restarting, out of reach, or out of room; the same call may work soon."""


class StatementTimeout(Unreachable):
    """The database ended a statement that took longer than the role of the Data API may take."""


class SchemaError(DatabaseError):
    """The SQL API is missing from this database, or older or newer than this worker."""

    exit_code = 3


class Busy(DatabaseError):
    """All due jobs are in tables that another session has locked as a whole."""


class ProviderError(WorkerError):
    """A call of a model failed. `error_class` names the kind of error, in the queue and in logs."""

    error_class: str


class ProviderRefused(ProviderError):
    """The provider will refuse every call until somebody acts: key, quota, model, width.

    `of_the_model`: the cause is this model or its use; other models of the provider may work.
    """

    exit_code = 4

    def __init__(
        self,
        cause: str,
        hint: str | None = None,
        *,
        error_class: str = "refused",
        of_the_model: bool = False,
    ) -> None:
        super().__init__(cause, hint)
        self.error_class = error_class
        self.of_the_model = of_the_model


class Transient(ProviderError):
    """The provider failed temporarily, by `error_class`:

    rate_limited    it received more requests than it allows
    overloaded      it is too busy
    timed_out       it did not answer in time
    unreachable     there is no connection to it
    provider_error  it had an internal error
    bad_answer      it sent an unusable answer

    `retry_after` is how many seconds the provider asked to wait, if it did.
    `of_the_input`: one of the texts may be the cause, as with an internal error.
    """

    def __init__(
        self,
        cause: str,
        *,
        error_class: str = "provider_error",
        retry_after: float | None = None,
        of_the_input: bool = False,
    ) -> None:
        super().__init__(cause, "Nothing is lost: the jobs are due again by themselves.")
        self.error_class = error_class
        self.retry_after = retry_after
        self.of_the_input = of_the_input


class Rejected(ProviderError):
    """The provider refuses this input, by `error_class`:

    rejected      for its content
    too_long      a text is longer than the model takes
    too_large     there is too much in one request; half of it may do
    bad_vector    its vector for the text is unusable
    empty_answer  a chat model wrote no visible text

    `share` is how much of a text that is too long the model would take, if the provider says so.
    `unsupported` is the field of the request that the model does not support, likewise.
    `tokens`: what a chat model read and wrote, in an answer that cannot be used.
    """

    def __init__(
        self,
        cause: str,
        *,
        error_class: str = "rejected",
        share: float | None = None,
        unsupported: str | None = None,
        tokens: tuple[int | None, int | None] | None = None,
    ) -> None:
        super().__init__(cause)
        self.error_class = error_class
        self.share = share
        self.unsupported = unsupported
        self.tokens = tokens


class AdoptionRefused(WorkerError):
    """The vectors of a column are not those that a model gives for their texts."""


class BackupError(WorkerError):
    """A backup, or the destination of backups, cannot be written or read."""


class BackupDamaged(BackupError):
    """A backup is not finished, was changed since it was written, or is of another version."""


class ParseFailure(WorkerError):
    """A file has no text that can be read, by `error_class`; docs/files.md lists the classes.

    The cause and the hint contain nothing of the file.
    """

    def __init__(self, cause: str, hint: str | None = None, *, error_class: str) -> None:
        super().__init__(cause, hint)
        self.error_class = error_class
