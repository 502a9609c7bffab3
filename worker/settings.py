"""The environment, and a `.env` file below it, as one validated and immutable `Settings`.

All problems are reported at once, so that they can be fixed at once.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from worker.durations import parse_duration
from worker.errors import SettingsError

MOST_AT_ONCE = 10_000  # jobs
DAY = 86_400.0  # seconds
LONGEST_DELAY = 86_400_000  # milliseconds
MOST_A_MINUTE = 999_999_999  # requests or tokens
MOST_ENQUEUED = 999_999_999_999  # tokens
MOST_CONCURRENCY = 256  # requests
MOST_CACHE = 1_000_000  # MB
MOST_MEMORY = 10_000_000  # MB
MOST_FAILURES = 999_999_999  # jobs
MOST_FILES = 10_000_000  # of a folder
MOST_EXTRA = 10_000  # bytes of EMBEDDING_EXTRA_BODY
OLLAMA_PORT = 11434
SHORTEST_TOKEN = 16  # characters
SHORTEST_JWT_SECRET = 32  # bytes, as long as the hash of HS256
SHORTEST_LEASE = 2.0  # seconds; a heartbeat must fit into it three times
VENDORS = ("openai", "voyage", "mistral", "jina", "gemini", "cohere", "nvidia", "together")
"""The providers with a key and a base URL of their own: NAME_API_KEY, NAME_BASE_URL."""
RETRY_SECONDS = 30.0
"""How long a request to a provider is retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the worker. Secrets are not in its repr."""

    database_url: str | None = field(default=None, repr=False)
    supabase_url: str | None = None
    supabase_service_role_key: str | None = field(default=None, repr=False)
    embedding_model: str = "local:wordllama-256"
    embedding_provider: str | None = None
    ollama_embedding_model: str | None = None
    sentence_transformers_models: tuple[str, ...] | None = None
    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = field(default=None, repr=False)
    voyage_api_key: str | None = field(default=None, repr=False)
    voyage_base_url: str | None = field(default=None, repr=False)
    mistral_api_key: str | None = field(default=None, repr=False)
    mistral_base_url: str | None = field(default=None, repr=False)
    jina_api_key: str | None = field(default=None, repr=False)
    jina_base_url: str | None = field(default=None, repr=False)
    gemini_api_key: str | None = field(default=None, repr=False)
    gemini_base_url: str | None = field(default=None, repr=False)
    cohere_api_key: str | None = field(default=None, repr=False)
    cohere_base_url: str | None = field(default=None, repr=False)
    nvidia_api_key: str | None = field(default=None, repr=False)
    nvidia_base_url: str | None = field(default=None, repr=False)
    together_api_key: str | None = field(default=None, repr=False)
    together_base_url: str | None = field(default=None, repr=False)
    azure_openai_endpoint: str | None = field(default=None, repr=False)
    azure_openai_api_key: str | None = field(default=None, repr=False)
    ollama_host: str = field(default="http://127.0.0.1:11434", repr=False)
    enable_llm_enhancement: bool = False
    ollama_llm_base_url: str | None = field(default=None, repr=False)
    ollama_llm_model: str | None = None
    enhancement_cache_mb: int = 64
    next_public_api_base_url: str | None = field(default=None, repr=False)
    embedding_api_token: str | None = field(default=None, repr=False)
    embedding_extra_body: Mapping[str, Mapping[str, object]] | None = None
    embedding_rpm: int | None = None
    embedding_tpm: int | None = None
    embedding_max_concurrency: int | None = None
    embedding_cache_mb: int = 0
    embedding_batch_size: int | None = None
    embedding_batch_tokens: int | None = None
    embedding_batch_poll: timedelta = timedelta(seconds=60)
    embedding_delay_ms: int = 0
    embedding_timeout_seconds: float = 60.0
    embedding_lease_seconds: float = 300.0
    embedding_grace_seconds: float = 20.0
    worker_data_dir: Path | None = None
    enable_background_embedding: bool = True
    worker_deep_sleep_after: float = 300.0
    worker_max_load: float = 1.5
    worker_max_cpu_pressure: int = 60
    worker_max_memory_mb: int | None = None
    worker_max_db_sessions: int = 80
    worker_max_lock_wait: float = 5.0
    worker_max_replica_lag: float = 30.0
    worker_yield_to_vacuum: bool = True
    worker_log_format: str = "console"
    worker_log_level: str = "info"
    worker_metrics_port: int | None = None
    worker_metrics_host: str = "127.0.0.1"
    worker_web_address: str = "127.0.0.1:8080"
    worker_web_token: str | None = field(default=None, repr=False)
    worker_web_read_token: str | None = field(default=None, repr=False)
    worker_web_url: str | None = None
    supabase_jwt_secret: str | None = field(default=None, repr=False)
    embedding_progress_interval: int = 5
    notify_webhook_url: str | None = field(default=None, repr=False)
    notify_command: str | None = field(default=None, repr=False)
    notify_failures: int = 100
    files_host: str | None = None
    files_scan_every: timedelta = timedelta(seconds=60)
    files_grace: timedelta = timedelta(days=1)
    files_most: int = 100_000
    files_log_paths: bool = True
    files_at_once: int | None = None
    files_parse_seconds: float = 60.0
    files_parse_memory_mb: int = 1024
    files_max_mb: int = 256
    files_fallback_encoding: str = "cp1252"
    verify_every: timedelta | None = timedelta(hours=1)
    repair_budget: float = 1.0
    backup_to: str = "backups"
    backup_every: timedelta | None = None
    backup_keep: timedelta | None = None
    s3_endpoint: str | None = field(default=None, repr=False)
    s3_region: str | None = None
    s3_access_key_id: str | None = field(default=None, repr=False)
    s3_secret_access_key: str | None = field(default=None, repr=False)

    @classmethod
    def variables(cls) -> frozenset[str]:
        """The names of all environment variables that are read."""
        return frozenset(setting.name.upper() for setting in fields(cls)) | _ALIASES.keys()

    @classmethod
    def load(
        cls,
        environment: Mapping[str, str],
        dotenv: Path = Path(".env"),
        *,
        asks_model: bool = True,
    ) -> Settings:
        """Read `environment`, and what it lacks from the file `dotenv` if there is one.

        Raises SettingsError with all problems in one message. Unless `asks_model`, settings that
        only EMBEDDING_MODEL needs may be missing.
        """
        return cls.from_mapping(read_environment(environment, dotenv), asks_model=asks_model)

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the environment of this process, as `load` does."""
        return cls.load(os.environ)

    @classmethod
    def from_mapping(cls, values: Mapping[str, str], *, asks_model: bool = True) -> Settings:
        """Parse and check `values`, as `load` does."""
        given = {name: value.strip() for name, value in values.items() if value.strip()}
        for alias, variable in _ALIASES.items():
            if alias in given:
                given.setdefault(variable, given[alias])
        problems: dict[str, str] = {}
        parsed: dict[str, Any] = {}
        for setting in fields(cls):
            variable = setting.name.upper()
            if variable in given:
                try:
                    parsed[setting.name] = _PARSERS[setting.name](given[variable])
                except ValueError as problem:
                    problems[variable] = f"{variable} {problem}"
        if parsed.get("embedding_provider") == "ollama" and "ollama_embedding_model" in parsed:
            parsed.setdefault("embedding_model", f"ollama:{parsed['ollama_embedding_model']}")
        contradictions = cls(**parsed)._contradictions(given, asks_model)
        found = [*problems.values(), *contradictions]
        if found:
            raise SettingsError(
                "; ".join(found),
                "Correct the environment or .env; .env.example describes every variable.",
            )
        return cls(**parsed)

    def _contradictions(self, given: Mapping[str, str], asks_model: bool) -> list[str]:
        missing = (self._missing_for_the_model() if asks_model else {}) | self._missing()
        found = [
            f"{variable} is not set, but {reason}"
            for variable, reason in missing.items()
            if variable not in given  # otherwise its own problem is reported
        ]
        if self.worker_web_token and self.worker_web_token == self.worker_web_read_token:
            found.append("WORKER_WEB_TOKEN and WORKER_WEB_READ_TOKEN are the same")
        return [*found, *(self._problems_of_the_provider(given) if asks_model else [])]

    def key_and_base_url(self, vendor: str) -> tuple[str | None, str | None]:
        """Return the key of one of the VENDORS, and its base URL if it is not the vendor's own."""
        return getattr(self, f"{vendor}_api_key"), getattr(self, f"{vendor}_base_url")

    @property
    def uses_data_api(self) -> bool:
        """Whether the queue uses the Data API: SUPABASE_URL is set, and DATABASE_URL is not."""
        return self.supabase_url is not None and self.database_url is None

    def _problems_of_the_provider(self, given: Mapping[str, str]) -> list[str]:
        """Return why EMBEDDING_MODEL is not a model of EMBEDDING_PROVIDER."""
        provider, model = self.embedding_provider, self.embedding_model
        if provider in (None, model.partition(":")[0]):
            return []
        if given.get("EMBEDDING_MODEL") == model:
            return [f"EMBEDDING_PROVIDER is {provider}, but EMBEDDING_MODEL is {model}"]
        variable = "OLLAMA_EMBEDDING_MODEL" if provider == "ollama" else "EMBEDDING_MODEL"
        if variable in given or "EMBEDDING_MODEL" in given:  # its own problem is reported
            return []
        return [f"{variable} is not set, but EMBEDDING_PROVIDER is {provider}"]

    def _missing(self) -> dict[str, str]:
        """Return the missing variables that the given ones require, and why."""
        missing = {}
        if self.uses_data_api and not self.supabase_service_role_key:
            missing["SUPABASE_SERVICE_ROLE_KEY"] = "SUPABASE_URL is, and DATABASE_URL is not"
        if self.enable_llm_enhancement and not self.ollama_llm_model:
            missing["OLLAMA_LLM_MODEL"] = "ENABLE_LLM_ENHANCEMENT is true"
        return missing

    def _missing_for_the_model(self) -> dict[str, str]:
        """Return the missing variables that EMBEDDING_MODEL requires, and why."""
        provider, _, name = self.embedding_model.partition(":")
        of_the_model = {
            f"{vendor.upper()}_API_KEY": provider == vendor
            and not any(self.key_and_base_url(vendor))
            for vendor in VENDORS
        } | {
            "AZURE_OPENAI_ENDPOINT": provider == "azure" and not self.azure_openai_endpoint,
            "AZURE_OPENAI_API_KEY": provider == "azure" and not self.azure_openai_api_key,
            "NEXT_PUBLIC_API_BASE_URL": provider == "http"
            and name.startswith("/")
            and not self.next_public_api_base_url,
        }
        return {
            variable: f"EMBEDDING_MODEL is {self.embedding_model}"
            for variable, is_missing in of_the_model.items()
            if is_missing
        }


def read_environment(environment: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """Read `environment`, and what it lacks or leaves blank from the file `dotenv`, unchecked."""
    try:
        from_file = {name: value for name, value in dotenv_values(dotenv).items() if value}
    except UnicodeDecodeError as problem:
        raise SettingsError(
            f"{dotenv} is not written in UTF-8 (byte {problem.start})", "Save it as UTF-8."
        ) from None
    return from_file | {name: value for name, value in environment.items() if value.strip()}


OUR_PREFIXES = ("EMBEDDING_", "FILES_", "NOTIFY_", "WORKER_")
# Variables with such a prefix that other programs set.
_OF_OTHERS = re.compile(
    r"NOTIFY_SOCKET"  # systemd
    # Kubernetes, for a service named worker, embedding-worker, …
    r"|\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
    r"|(EMBEDDING|FILES|NOTIFY|WORKER)_PORT"
)
_ADDRESS_OF_A_SERVICE = re.compile(r"(tcp|udp|sctp)://")  # what X_PORT holds there


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables with our prefixes that are not read, each with the nearest known name.

    None if no name is near.
    """
    known = sorted(Settings.variables())
    return {
        name: next(iter(get_close_matches(name, known, n=1)), None)
        for name, value in sorted(environment.items())
        if name.startswith(OUR_PREFIXES)
        and name not in known
        and not _OF_OTHERS.fullmatch(name)
        and not (name.endswith("_PORT") and _ADDRESS_OF_A_SERVICE.match(value))
    }


_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}

_ALIASES = {  # the second name wins
    "CO_API_KEY": "COHERE_API_KEY",
    "MAX_EMBEDDING_WORKERS": "EMBEDDING_MAX_CONCURRENCY",
    "NEXT_PUBLIC_SUPABASE_URL": "SUPABASE_URL",
    "OLLAMA_EMBEDDING_HOST": "OLLAMA_HOST",
}


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(given: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", given) or not least <= int(given) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}: `{given}`")
        return int(given)

    return parse


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"must be a number of seconds above zero: `{given}`")
    if seconds > DAY:
        raise ValueError(f"must be at most a day, {DAY:.0f} seconds: `{given}`")
    return seconds


def _number(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"must be a number above zero: `{given}`")
    return number


def _duration(given: str) -> timedelta:
    try:
        return parse_duration(given)
    except SettingsError:
        raise ValueError(f"must be a duration like 90s, 30m, 24h or 7d: `{given}`") from None


def _duration_or_off(given: str) -> timedelta | None:
    return None if given.lower() == "off" else _duration(given)


def _dollars(given: str) -> float:
    try:
        amount = float(given)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise ValueError(f"must be a number of US dollars, 0 or more: `{given}`")
    return amount


def _encoding(given: str) -> str:
    try:
        return codecs.lookup(given).name
    except LookupError:
        raise ValueError(f"must be an encoding like cp1252 or shift_jis: `{given}`") from None


def _yes_or_no(given: str) -> bool:
    if given.lower() not in _TRUE | _FALSE:
        raise ValueError(f"must be true or false: `{given}`")
    return given.lower() in _TRUE


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(given: str) -> str:
        if given not in words:
            raise ValueError(f"must be one of {', '.join(words)}: `{given}`")
        return given

    return parse


def _lease_seconds(given: str) -> float:
    seconds = _seconds(given)
    if seconds < SHORTEST_LEASE:
        raise ValueError(f"must be at least {SHORTEST_LEASE:g} seconds: `{given}`")
    return seconds


# Parameters of a Postgres URL that other programs read, and that Postgres itself refuses.
_FOREIGN = re.compile(
    # Prisma
    "pgbouncer|schema|connection_limit|pool_timeout|socket_timeout|statement_cache_size|sslaccept"
    "|sslidentity|single_use_connections|max_connection_lifetime|max_idle_connection_lifetime"
    # the dashboards of Supabase and Vercel
    "|supa|workaround"
    # node-postgres, postgres.js, Drizzle, Bun
    "|uselibpqcompat|max|idle_timeout|max_lifetime|prepare"
    # SQLAlchemy, asyncpg, Django
    "|prepared_statement_cache_size|prepared_statement_name_func|async_fallback|command_timeout"
    "|conn_max_age"
    # pgx, lib/pq
    "|pool_(max|min)_conns|pool_max_conn_(lifetime|lifetime_jitter|idle_time)"
    "|pool_health_check_period|default_query_exec_mode|(statement|description)_cache_capacity"
    "|binary_parameters"
    # JDBC
    "|currentSchema|prepareThreshold|reWriteBatchedInserts|loggerLevel|ApplicationName"
    # Rails, Ecto, sqlx
    "|pool|pool_size|prepared_statements|checkout_timeout|reaping_frequency"
    "|statement-cache-capacity"
)


def foreign_parameters(url: str) -> list[str]:
    """Return the parameters of a Postgres URL that are ignored, each once."""
    return list(dict.fromkeys(name for name, _ in _parameters(url) if _FOREIGN.fullmatch(name)))


def without_password(url: str) -> tuple[str, str | None]:
    """Return a Postgres URL without its password, and the password if it has one."""
    found = re.match(r"(\w+://[^:@/?]*):([^@/]*)@", url)
    if not found:
        return url, None
    return f"{found[1]}@{url[found.end() :]}", unquote(found[2])


def _parameters(url: str) -> list[tuple[str, str]]:
    """Return the parameters of a Postgres URL, by name and as written.

    Empty if an @ follows: then the question mark belongs to the password.
    """
    _, _, query = url.partition("?")
    pairs = query.split("&") if query and "@" not in query else []
    return [(unquote(pair.partition("=")[0]), pair) for pair in pairs]


def _postgres_url(given: str) -> str:
    # The value holds a password: it is never repeated.
    if not re.match(r"postgres(ql)?://", given):
        raise ValueError("must begin with postgresql://")
    if not foreign_parameters(given):
        return given
    kept = [pair for name, pair in _parameters(given) if not _FOREIGN.fullmatch(name)]
    return given.partition("?")[0] + ("?" + "&".join(kept) if kept else "")


def _http_url(given: str) -> str:
    # The value may hold a password: it is never repeated.
    try:
        parts = urlsplit(given)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number
        usable = False
    if not usable:
        raise ValueError("must be a URL like https://host:port/v1")
    return given


def _web_url(given: str) -> str:
    parts = urlsplit(_http_url(given))
    if parts.username or parts.query or parts.fragment:
        raise ValueError("must be a URL like https://host/path, without a user, query or fragment")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _token(given: str) -> str:
    # Never repeated. A short one could be guessed.
    if len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isprintable():
        raise ValueError(f"must have at least {SHORTEST_TOKEN} characters, all of ASCII")
    if given.startswith("ew_") or given.count(".") == 2:
        raise ValueError("is like the key of an app or the token of a user: choose another one")
    return given


def _jwt_secret(given: str) -> str:
    # Never repeated. HS256 wants a secret as long as its hash.
    if len(given) < SHORTEST_JWT_SECRET:
        raise ValueError(f"must have at least {SHORTEST_JWT_SECRET} characters")
    return given


def _project_url(given: str) -> str:
    parts = urlsplit(_http_url(given))
    if parts.hostname == "supabase.com" or parts.username:
        raise ValueError("must be the address of the project, like https://PROJECT.supabase.co")
    return re.sub(r"(/rest/v1)?/*$", "", f"{parts.scheme}://{parts.netloc}{parts.path}")


def _secret_key(given: str) -> str:
    # Never repeated. A key for browsers would be accepted, but every call would be refused.
    if given.startswith("sb_publishable_") or _role_in(given) == "anon":
        raise ValueError("is the key for browsers: it must be a secret key or that of service_role")
    return given


def _role_in(key: str) -> str | None:
    """Return the role in a key of the older kind, a JSON web token."""
    try:
        payload = urlsafe_b64decode(key.split(".")[1] + "==")
        return str(json.loads(payload).get("role"))
    except (IndexError, ValueError, AttributeError):
        return None


def _no_number(given: str) -> None:
    raise ValueError  # NaN and Infinity, which are no JSON


def _extra_body(given: str) -> Mapping[str, Mapping[str, object]]:
    try:
        bodies = json.loads(given, parse_constant=_no_number) if len(given) <= MOST_EXTRA else None
    except (ValueError, RecursionError):
        bodies = None
    extensible = {*VENDORS, "azure"}
    if not isinstance(bodies, dict) or not all(
        name in extensible and isinstance(body, dict) for name, body in bodies.items()
    ):
        raise ValueError(
            'must be a JSON object with an object for each provider, like {"voyage": {…}}, of at'
            f" most {MOST_EXTRA} characters. The providers are {', '.join(sorted(extensible))}"
        )
    return bodies


def _ollama_host(given: str) -> str:
    # As Ollama itself reads it: a host, with a port or without, with a scheme or without.
    url = given if "://" in given else f"http://{given}"
    url = re.sub(r"//(0\.0\.0\.0)?(?=:|/|$)", "//127.0.0.1", url) if url != "http://" else url
    try:
        parts = urlsplit(_http_url(url))
    except ValueError:
        raise ValueError(f"must be an address like http://127.0.0.1:{OLLAMA_PORT}") from None
    has_port = parts.port is not None or "://" in given
    return (url if has_port else f"http://{parts.netloc}:{OLLAMA_PORT}{parts.path}").rstrip("/")


def _ollama_llm_base_url(given: str) -> str:
    # Guides for OpenAI's client add /v1, and some add /api: requests go to neither of them.
    return re.sub(r"(?<!/)/(v1|api)$", "", _ollama_host(given))


def _ollama_model(given: str) -> str:
    name = given.removeprefix("ollama:")
    if not re.fullmatch(r"[\w./:@-]+", name, re.ASCII):
        raise ValueError(f"must be the name of a model of Ollama, like gemma3:12b: `{given}`")
    return name


def _model(given: str) -> str:
    if not re.fullmatch(r"[a-z-]+:\S+", given):
        raise ValueError(f"must be provider:model, like openai:text-embedding-3-small: `{given}`")
    if given.startswith("http:") and re.search(r"[@?#]", given):
        # The name of a model is shown and stored; what was given may hold a password.
        raise ValueError("may hold no user, password, query or fragment")
    return given


def _provider(given: str) -> str:
    if not re.fullmatch(r"[a-z-]+", given.lower()):
        raise ValueError(f"must be the name of a provider, like ollama: `{given}`")
    return given.lower()


def _names(given: str) -> tuple[str, ...]:
    return tuple(name for part in given.split(",") if (name := part.strip()))


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "database_url": _postgres_url,
    "supabase_url": _project_url,
    "supabase_service_role_key": _secret_key,
    "embedding_model": _model,
    "embedding_provider": _provider,
    "ollama_embedding_model": _ollama_model,
    **{f"{vendor}_api_key": str for vendor in VENDORS},
    **{f"{vendor}_base_url": _http_url for vendor in VENDORS},
    "sentence_transformers_models": _names,
    "azure_openai_endpoint": _http_url,
    "azure_openai_api_key": str,
    "ollama_host": _ollama_host,
    "enable_llm_enhancement": _yes_or_no,
    "ollama_llm_base_url": _ollama_llm_base_url,
    "ollama_llm_model": _ollama_model,
    "enhancement_cache_mb": _whole_number(0, MOST_CACHE),
    "next_public_api_base_url": _http_url,
    "embedding_api_token": str,
    "embedding_extra_body": _extra_body,
    "embedding_rpm": _whole_number(1, MOST_A_MINUTE),
    "embedding_tpm": _whole_number(1, MOST_A_MINUTE),
    "embedding_max_concurrency": _whole_number(1, MOST_CONCURRENCY),
    "embedding_cache_mb": _whole_number(0, MOST_CACHE),
    "embedding_batch_size": _whole_number(1, MOST_AT_ONCE),
    "embedding_batch_tokens": _whole_number(1, MOST_ENQUEUED),
    "embedding_batch_poll": _duration,
    "embedding_delay_ms": _whole_number(0, LONGEST_DELAY),
    "embedding_timeout_seconds": _seconds,
    "embedding_lease_seconds": _lease_seconds,
    "embedding_grace_seconds": _seconds,
    "worker_data_dir": Path,
    "enable_background_embedding": _yes_or_no,
    "worker_deep_sleep_after": _seconds,
    "worker_max_load": _number,
    "worker_max_cpu_pressure": _whole_number(1, 100),
    "worker_max_memory_mb": _whole_number(1, MOST_MEMORY),
    "worker_max_db_sessions": _whole_number(1, 100),
    "worker_max_lock_wait": _seconds,
    "worker_max_replica_lag": _seconds,
    "worker_yield_to_vacuum": _yes_or_no,
    "worker_log_format": _one_of("console", "json"),
    "worker_log_level": _one_of("debug", "info", "warning"),
    "worker_metrics_port": _whole_number(1, 65535),
    "worker_metrics_host": str,
    "worker_web_address": str,
    "worker_web_token": _token,
    "worker_web_read_token": _token,
    "worker_web_url": _web_url,
    "supabase_jwt_secret": _jwt_secret,
    "embedding_progress_interval": _whole_number(1, 100),
    "notify_webhook_url": _http_url,
    "notify_command": str,
    "notify_failures": _whole_number(1, MOST_FAILURES),
    "files_host": str,
    "files_scan_every": _duration,
    "files_grace": _duration,
    "files_most": _whole_number(1, MOST_FILES),
    "files_log_paths": _yes_or_no,
    "files_at_once": _whole_number(1, 100),
    "files_parse_seconds": _seconds,
    "files_parse_memory_mb": _whole_number(128, MOST_MEMORY),
    "files_max_mb": _whole_number(1, MOST_MEMORY),
    "files_fallback_encoding": _encoding,
    "verify_every": _duration_or_off,
    "repair_budget": _dollars,
    "backup_to": str,
    "backup_every": _duration,
    "backup_keep": _duration,
    "s3_endpoint": _http_url,
    "s3_region": str,
    "s3_access_key_id": str,
    "s3_secret_access_key": str,
}
