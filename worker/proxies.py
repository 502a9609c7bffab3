"""Proxies that the environment names: where they do not apply, and where they cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies

from worker.errors import SettingsError

READ_BY_CLIENTS = {
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
}


@contextmanager
def usable_proxies() -> Iterator[None]:
    """Create an HTTP client in this context. Raises SettingsError if the environment prevents it.

    No value is repeated: a proxy's address may hold a password.
    """
    try:
        yield
    except ImportError:
        raise SettingsError(
            f"{_variables()} names a SOCKS proxy, and the package for those is not installed",
            "Install it with: pip install socksio. Or name an HTTP proxy.",
        ) from None
    except Exception as problem:  # of many kinds, which differ between releases of the clients
        raise SettingsError(
            f"{_variables()} cannot be used by the HTTP client ({type(problem).__name__})",
            "Give a proxy like http://host:3128 or socks5://host:1080, and in NO_PROXY a list like"
            " localhost,10.0.0.1,.example.com; or unset the variable.",
        ) from None


def direct_mounts(url: str) -> dict[str, None]:
    """Return mounts that make a client use no proxy, if NO_PROXY has a range like 10.0.0.0/8 with
    the host of `url`: clients themselves read only single hosts."""
    try:
        address = ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return {}
    listed = getproxies().get("no", "").replace("[", "").replace("]", "").split(",")
    is_direct = any(_holds(entry.strip(), address) for entry in listed if "/" in entry)
    return dict.fromkeys(("http://", "https://", "all://")) if is_direct else {}


def _holds(entry: str, address: IPv4Address | IPv6Address) -> bool:
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:  # not a range
        return False


def _variables() -> str:
    """Return the names of the variables that are set."""
    found = sorted(
        name for name, value in os.environ.items() if value and name.upper() in READ_BY_CLIENTS
    )
    return " or ".join(found) or "the network configuration of this machine"
