"""An HTTP client with limits on the time and the size of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cache
from threading import Thread
from typing import Any, TypeVar

from openai import DefaultAsyncHttpxClient

from worker.proxies import direct_mounts, usable_proxies

MOST_BYTES = 64 * 2**20  # of an answer, unpacked: 2048 vectors of 4096 dimensions in base64 are 45
MOST_BYTES_OF_AN_ERROR = 2**20

Result = TypeVar("Result")


class Unusable(Exception):
    """An answer was not read to its end. The message says why."""


Signer = Callable[[Any], Any]
"""Returns the request, an object of the client's, with a signature."""


class BoundedClient(DefaultAsyncHttpxClient):
    """For a server at `url`, with requests that `sign` signs. Reads an answer of at most
    MOST_BYTES, unless it is read as a stream. Follows no redirect, and keeps no cookie.

    Raises SettingsError if the environment names proxies that cannot be used.
    """

    def __init__(self, url: str, sign: Signer | None = None) -> None:
        with usable_proxies():
            super().__init__(follow_redirects=False, mounts=direct_mounts(url), auth=sign)
        self._loop = _loop()

    def run(self, work: Coroutine[Any, Any, Result], seconds: float) -> Result:
        """Run `work` with this client and return its result. Any thread may wait for it.

        After `seconds`, cancels it and raises TimeoutError.
        """

        async def limited() -> Result:
            async with asyncio.timeout(seconds):
                return await work

        return asyncio.run_coroutine_threadsafe(limited(), self._loop).result()

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work`, without waiting for it. What Python clears away may call this in any thread,
        also in that of the event loop, which must not wait for itself."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        response = await super().send(request, stream=True, **options)
        self.cookies.clear()
        if stream and response.is_success and not _is_packed_twice(response):
            return response
        try:
            content = await _read_content(response)
        finally:
            await response.aclose()
        # What was read is unpacked, and it is JSON in UTF-8 whatever the headers say.
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name not in ("content-encoding", "content-length", "content-type")
        ]
        return type(response)(
            response.status_code, headers=headers, content=content, request=request
        )


async def _read_content(response: Any) -> bytes:
    """Read the body; of an error, only the beginning. Raises Unusable if it is too large."""
    if _is_packed_twice(response):
        raise Unusable("it is compressed more than once")  # a few bytes could unpack for hours
    pieces: list[bytes] = []
    left = MOST_BYTES if response.is_success else MOST_BYTES_OF_AN_ERROR
    async for piece in response.aiter_bytes():
        pieces.append(piece[:left])
        left -= len(piece)
        if left < 0:
            if response.is_success:
                raise Unusable(f"more than {MOST_BYTES // 2**20} MB")
            break
    return b"".join(pieces)


def _is_packed_twice(response: Any) -> bool:
    return "," in response.headers.get("content-encoding", "")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all requests: unlike a thread, it can cancel a request at any time."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="requests", daemon=True).start()
    return loop


def find_reason(error: BaseException) -> str:
    """Return why a connection failed: the message of the innermost error that has one."""
    while True:
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            inner = error.exceptions[0]
        if inner is None or not str(inner):
            return str(error)
        error = inner
