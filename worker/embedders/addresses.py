"""What stands behind `http:` in the name of a model: an address, whole or below another one."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from worker.errors import SettingsError
from worker.settings import Settings

USUAL_PATH = "/api/embeddings/generate"


def check_address(name: str) -> None:
    """Raise SettingsError unless `name` is the address of an endpoint, and nothing more.

    The names of models are stored in the database, where a password would be read by many.
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


def address_of(name: str, settings: Settings) -> str:
    """Where to ask the model `http:NAME`. Raises SettingsError if that takes a setting more."""
    check_address(name)
    parts = _split(name)
    if parts.netloc:
        return parts._replace(path=(parts.path.strip("/") and parts.path) or USUAL_PATH).geturl()
    if not settings.next_public_api_base_url:
        raise SettingsError(
            f"NEXT_PUBLIC_API_BASE_URL is not set, and http:{name} has no host",
            f"Set it, or name the whole address, like http:https://app.example.com{USUAL_PATH}.",
        )
    base = urlsplit(settings.next_public_api_base_url)
    return base._replace(path=base.path.rstrip("/") + parts.path, query="", fragment="").geturl()


def token_for(address: str, settings: Settings) -> str | None:
    """The token, if `address` is on a host that the environment names.

    Any other came out of the database, and who can write there is not to collect the token.
    """
    provider, _, name = settings.embedding_model.partition(":")
    named = [settings.next_public_api_base_url or "", name if provider == "http" else ""]
    is_trusted = _origin(address) in [_origin(given) for given in named if given]
    return settings.embedding_api_token if is_trusted else None


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or usual


def _split(name: str) -> SplitResult:
    try:
        parts = urlsplit(name)
        if parts.port == 0:
            raise ValueError
    except ValueError:  # a port that is no number, half a bracket
        raise _no_address() from None
    return parts


def _no_address() -> SettingsError:
    # What was given may hold a password: it is never repeated.
    return SettingsError(
        "an http: model needs an address, and this is none",
        f"Give one like http:https://app.example.com{USUAL_PATH}, or http:{USUAL_PATH}"
        " below NEXT_PUBLIC_API_BASE_URL.",
    )
