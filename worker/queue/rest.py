"""One call of the Data API, and what its failures mean.

supabase-py carries it. What comes back as an error is told by its code: that of PostgREST (PGRST…),
that of Postgres (five characters), or the status of the answer where a gateway gave it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from postgrest import APIError
from supabase import Client, ClientOptions, create_client

from worker.errors import (
    Busy,
    SchemaError,
    SettingsError,
    StatementTimeout,
    Unreachable,
    WorkerError,
)
from worker.proxies import direct_mounts, usable_proxies
from worker.queue import one_line, takes_no_writes
from worker.queue.functions import ONE_OF_A_NAME, arguments_of, without_values

ANSWER_TIMEOUT = 60.0  # seconds; the statement timeout of the API's role ends a call long before
CONNECT_TIMEOUT = 10.0  # seconds

# Failures that pass. Postgres: connection, conflict, lack of room, shutdown. PostgREST: it has no
# connection to the database, gets none in time, or has not read the schema yet. A gateway: time,
# rate, and whatever fails behind it.
PASSING_CODE = re.compile(r"(08|40|53|57|58)...|PGRST00[0-3]")
PASSING_STATUS = re.compile(r"408|429|5..")
OUR_OWN = ("22023", "2201B")  # what the functions of the SQL API raise: no values are in it

WHICH_KEY = (
    "SUPABASE_SERVICE_ROLE_KEY must be the secret key (sb_secret_…) or the service_role key of this"
    " very project: Project Settings, API Keys."
)
WHICH_URL = "It looks like https://PROJECT.supabase.co: Project Settings, Data API."
MIGRATE = (
    "Apply the migrations: supabase db push --remote, or worker migrate. If they are"
    " applied: notify pgrst, 'reload schema';"
)
NOTHING_LOST = (
    "Nothing is lost: jobs that were claimed are due again when their lease runs out. Check"
    " SUPABASE_URL, and that the project is not paused."
)


class Rest:
    """Calls functions and reads views of the project at `url`. The key is in no message or repr.

    Raises Unreachable if the project is out of reach, StatementTimeout, Busy, SchemaError if the
    SQL API is missing, and SettingsError if it refuses the key or what it was asked.
    """

    def __init__(self, url: str, key: str, application_name: str) -> None:
        """Nothing is sent yet."""
        self._status = 0  # of the last answer: the exceptions of supabase-py do not tell it
        self.answered_at = datetime.now(UTC)
        """When the last answer was sent: to the second by the server's clock, if it told."""
        with usable_proxies():
            self._http = httpx.Client(
                http2=True,
                timeout=httpx.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT),
                event_hooks={"response": [self._note]},
                mounts=direct_mounts(url),
            )
        self._client: Client = create_client(
            url,
            key,
            ClientOptions(
                httpx_client=self._http,
                headers={"X-Client-Info": f"embedding-worker/{application_name}"},
                auto_refresh_token=False,
                persist_session=False,
            ),
        )

    def close(self) -> None:
        self._http.close()

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """What a function returns, as JSON."""
        return self._answer(self._client.rpc(function, arguments_of(function, arguments)))

    def read(self, relation: str, columns: Sequence[str], order: Sequence[str]) -> Any:
        """The rows of a table or a view."""
        query = self._client.table(relation).select(*columns)
        for column in order:
            query = query.order(column)
        return self._answer(query.retry(False))

    def _note(self, response: httpx.Response) -> None:
        self._status = response.status_code
        date = response.headers.get("date")
        self.answered_at = parsedate_to_datetime(date) if date else datetime.now(UTC)

    def _answer(self, request: Any) -> Any:
        try:
            return request.execute().data
        except APIError as problem:
            raise meaning_of(problem, self._status) from None
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            reason = str(problem) or type(problem).__name__
            raise Unreachable(
                f"the Data API cannot be reached: {one_line(reason)}", NOTHING_LOST
            ) from None
        except ValueError:  # an answer that is no JSON
            raise SettingsError("what answers at SUPABASE_URL is no Data API", WHICH_URL) from None


def meaning_of(problem: APIError, status: int) -> WorkerError:
    """The error of ours for one of the Data API, whose answer had this status."""
    code = problem.code or ""
    message = one_line(problem.message or f"status {status}")
    if (status in (401, 403) and not re.fullmatch(r"\w{5}", code)) or code.startswith("PGRST30"):
        return SettingsError(f"the Data API refuses the key: {message}", WHICH_KEY)
    if code == "42501":
        return SettingsError(f"the key may not do that: {message}", WHICH_KEY)
    if code in ("PGRST203", "42725"):
        return SchemaError(f"two functions in public have one name: {message}", ONE_OF_A_NAME)
    if code in ("PGRST202", "PGRST205", "42883"):
        return SchemaError(f"this project lacks part of the SQL API: {message}", MIGRATE)
    if code == "PGRST106":
        return SettingsError(
            f"the Data API does not serve the schema public: {message}",
            "Add it: Project Settings, Data API, exposed schemas.",
        )
    if code == "55P03":
        return Busy(message)
    if code == "57014":
        return StatementTimeout(
            f"the database ended a statement of the Data API: {message}",
            "It took longer than the role of the API may: alter role authenticator"
            " set statement_timeout = '30s'; notify pgrst, 'reload config';",
        )
    if code == "25006":
        return takes_no_writes(message)
    if PASSING_CODE.fullmatch(code) or PASSING_STATUS.fullmatch(str(status)):
        return Unreachable(f"the Data API failed: {message}", NOTHING_LOST)
    if status == 404 and code in ("", "404"):
        return SettingsError(f"what answers at SUPABASE_URL is no Data API: {message}", WHICH_URL)
    if code not in OUR_OWN:
        message = without_values(code, message, None)
    return SettingsError(message, one_line(problem.hint) if problem.hint else None)
