"""Calls of the Data API, and the translation of its errors.

It uses supabase-py. The code of an error shows its origin: PostgREST (PGRST…), Postgres (five
characters), or a gateway (the status of the answer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from postgrest import APIError
from supabase import Client, ClientOptions, create_client

from worker.database.translation import (
    ONE_OF_A_NAME,
    DatabaseMessage,
    Wording,
    one_line,
    translate_error,
)
from worker.errors import (
    CallerRefused,
    DatabaseError,
    SchemaError,
    SettingsError,
    Unreachable,
    WorkerError,
)
from worker.proxies import direct_mounts, usable_proxies
from worker.queue.functions import arguments_of

ANSWER_TIMEOUT = 60.0  # seconds; the statement timeout of the API's role ends a call long before
CONNECT_TIMEOUT = 10.0  # seconds

# Temporary failures, besides those of Postgres. PostgREST: it has no connection to the database,
# gets none in time, or has not read the schema yet. A gateway: timeout, rate, errors behind it.
PASSING_CODE = re.compile("PGRST00[0-3]")
PASSING_STATUS = re.compile(r"408|429|5..")
SQLSTATE = re.compile(r"[0-9A-Z]{5}")

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

WORDING = Wording(
    failed=("the Data API failed: ", NOTHING_LOST),
    slow=(
        "the database ended a statement of the Data API: ",
        "It took longer than the role of the API may: alter role authenticator"
        " set statement_timeout = '30s'; notify pgrst, 'reload config';",
    ),
    denied=("the key may not do that: ", WHICH_KEY),
    lacking=("this project lacks part of the SQL API: ", MIGRATE),
)


class Rest:
    """Calls functions and reads views of the project at `url`. No message or repr contains the key.

    Raises what a Transport raises, and SettingsError if the project refuses the key.
    """

    def __init__(self, url: str, key: str, application_name: str) -> None:
        """Create the client, and send nothing yet."""
        self._url = url
        self._key = key
        self._status = 0  # of the last answer: the exceptions of supabase-py do not have it
        self.answered_at = datetime.now(UTC)
        """When the last answer was sent, by the server's clock and to the second if it says so."""
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
        """Return the result of a function, as JSON."""
        return self._answer(self._client.rpc(function, arguments_of(function, arguments)))

    def check(self, token: str) -> None:
        """Raise CallerRefused unless a token is valid: any request of its owner tells that."""
        headers = {"apikey": self._key, "authorization": f"Bearer {token}"}
        address = f"{self._url}/rest/v1/embedding_targets?select=id&limit=0"
        try:
            self._answer(_Sent(self._http, "GET", address, headers))
        except CallerRefused as refused:
            if not refused.is_known:
                raise

    def call_as(
        self, token: str, schema: str, function: str, arguments: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the rows of a function that is called by who has this token.

        Raises CallerRefused if the token is not valid, or its owner may not call it.
        """
        headers = {
            "apikey": self._key,
            "authorization": f"Bearer {token}",
            "content-profile": schema,
        }
        address = f"{self._url}/rest/v1/rpc/{quote(function)}"
        return list(self._answer(_Sent(self._http, "POST", address, headers, arguments)))

    def read(self, relation: str, columns: Sequence[str], order: Sequence[str]) -> Any:
        """Return the rows of a table or a view."""
        query = self._client.table(relation).select(*columns)
        for column in order:
            query = query.order(column)
        return self._answer(query.retry(False), of_the_api=True)

    def _note(self, response: httpx.Response) -> None:
        self._status = response.status_code
        date = response.headers.get("date")
        self.answered_at = parsedate_to_datetime(date) if date else datetime.now(UTC)

    def _answer(self, request: Any, *, of_the_api: bool = False) -> Any:
        try:
            return request.execute().data
        except _CallersError as problem:
            raise _refused(problem, self._status) from None
        except APIError as problem:
            raise translate_api_error(problem, self._status, of_the_api=of_the_api) from None
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            reason = str(problem) or type(problem).__name__
            raise Unreachable(
                f"the Data API cannot be reached: {one_line(reason)}", NOTHING_LOST
            ) from None
        except ValueError:  # an answer that is not JSON
            raise SettingsError("SUPABASE_URL does not lead to a Data API", WHICH_URL) from None


class _CallersError(APIError):
    """An answer to a call in somebody's name that is not the result."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request that is not made by supabase-py, which sends its own key."""

    http: httpx.Client
    method: str
    address: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None = None

    def execute(self) -> _Answer:
        response = self.http.request(
            self.method, self.address, headers=dict(self.headers), json=self.body
        )
        content = response.json()
        if response.is_success:
            return _Answer(content)
        raise _CallersError(content if isinstance(content, dict) else {"message": str(content)})


class _Answer(NamedTuple):
    data: Any


def _refused(problem: APIError, status: int) -> WorkerError:
    """Translate an error of a call in somebody's name."""
    message = one_line(problem.message or f"status {status}")
    if problem.code == "42501":
        return CallerRefused(message, is_known=True)
    if status == 401 or (problem.code or "").startswith("PGRST30"):
        return CallerRefused(f"the token is refused: {message}", "Log in again.")
    return translate_api_error(problem, status)


def translate_api_error(problem: APIError, status: int, *, of_the_api: bool = False) -> WorkerError:
    """Translate an error of the Data API, whose answer had this status.

    `of_the_api`: the request named only what our SQL API defines.
    """
    code = problem.code or ""
    if SQLSTATE.fullmatch(code):
        hint = one_line(problem.hint) if problem.hint else None
        message = problem.message or f"status {status}"
        said = DatabaseMessage(code, message, hint, context=None, of_the_api=of_the_api)
        return translate_error(said, WORDING)
    message = one_line(problem.message or f"status {status}")
    if status in (401, 403) or code.startswith("PGRST30"):
        return SettingsError(f"the Data API refuses the key: {message}", WHICH_KEY)
    if code == "PGRST203":
        return SchemaError(f"two functions in public have one name: {message}", ONE_OF_A_NAME)
    if code in ("PGRST202", "PGRST205"):
        return SchemaError(WORDING.lacking[0] + message, WORDING.lacking[1])
    if code == "PGRST106":
        return SettingsError(
            f"the Data API does not serve the schema public: {message}",
            "Add it: Project Settings, Data API, exposed schemas.",
        )
    if PASSING_CODE.fullmatch(code) or PASSING_STATUS.fullmatch(str(status)):
        return Unreachable(WORDING.failed[0] + message, WORDING.failed[1])
    if status == 404 and code in ("", "404"):
        return SettingsError(f"SUPABASE_URL does not lead to a Data API: {message}", WHICH_URL)
    return DatabaseError(f"{message} ({code or status})", problem.hint)
