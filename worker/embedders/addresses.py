"""The address in the model name `http:ADDRESS`: a whole URL, or a path below a base URL."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from worker.errors import SettingsError
from worker.settings import Settings

USUAL_PATH = "/api/embeddings/generate"


def check_address(name: str) -> None:
    """Raise SettingsError unless `name` is the address of an endpoint, and nothing more.

    Model names are stored in the database, where many people could read a password.
    """
    parts = _split(name)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingsError(
            "the address of an http: model may hold no user, password, query or fragment",
            "It is stored in the database. Put a token into EMBEDDING_API_TOKEN.",
        )
    is_whole = parts.scheme in ("http", "https") and parts.hostname
    if not is_whole and (parts.scheme or parts.netloc or not parts.path.startswith("/")):
        raise _no_address()


def resolve_address(name: str, settings: Settings) -> str:
    """Return the URL of the model `http:NAME`.

    Raises SettingsError unless the environment names its host: other names come from the database,
    and a role that can write there must not choose where requests go.
    """
    check_address(name)
    parts = _split(name)
    if not parts.netloc:
        return _below_base_url(name, settings)
    address = parts._replace(path=(parts.path.strip("/") and parts.path) or USUAL_PATH).geturl()
    provider, _, default = settings.embedding_model.partition(":")
    named = [settings.next_public_api_base_url or "", default if provider == "http" else ""]
    if _origin(address) not in [_origin(given) for given in named if given]:
        host = f"{parts.scheme}://{parts.netloc}"
        raise SettingsError(
            f"http:{name} is on a host that the environment does not name",
            f"If requests may go there, set NEXT_PUBLIC_API_BASE_URL={host}, or"
            " EMBEDDING_MODEL to a model of that host.",
        )
    return address


def _below_base_url(path: str, settings: Settings) -> str:
    if not settings.next_public_api_base_url:
        raise SettingsError(
            f"NEXT_PUBLIC_API_BASE_URL is not set, and http:{path} has no host",
            f"Set it, or name the whole address, like http:https://app.example.com{USUAL_PATH}.",
        )
    base = urlsplit(settings.next_public_api_base_url)
    whole = base.path.rstrip("/") + urlsplit(path).path
    return base._replace(path=whole, query="", fragment="").geturl()


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = _split(address)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or usual


def _split(name: str) -> SplitResult:
    try:
        parts = urlsplit(name)
        if parts.port == 0:
            raise ValueError
    except ValueError:  # a port that is not a number, an unclosed bracket
        raise _no_address() from None
    return parts


def _no_address() -> SettingsError:
    # What was given may hold a password: it is never repeated.
    return SettingsError(
        "an http: model needs a valid address",
        f"Give one like http:https://app.example.com{USUAL_PATH}, or http:{USUAL_PATH}"
        " below NEXT_PUBLIC_API_BASE_URL.",
    )
