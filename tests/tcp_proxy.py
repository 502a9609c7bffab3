"""A proxy before a Postgres that loses connections on purpose.

    with TcpProxy(database_url) as proxy:
        cut = proxy.cut("complete_embeddings", Moment.UNANSWERED)
        ...  # something that works with the database at proxy.url
        assert cut.happened.wait(30)

A cut waits for a statement that names its function. It is made at a step of the conversation, not
after a time, and so at the same place in each run.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from threading import Event, Lock, Thread
from typing import Self

from psycopg.conninfo import conninfo_to_dict

READY = b"Z\0\0\0\5I"  # ReadyForQuery: the end of every answer, sent after the commit

Address = str | tuple[str, int]


class Moment(Enum):
    """Where a connection is cut in the course of a statement."""

    BEFORE = "before it reaches the server"
    UNANSWERED = "done, but before its answer arrives"
    AFTER = "after its answer"


@dataclass(slots=True)
class Cut:
    """The end of one connection, at the next statement that names `function`."""

    function: str
    moment: Moment
    happened: Event = field(default_factory=Event)


class TcpProxy:
    """Stands between 127.0.0.1 and the database at `url`, from `with` until its end."""

    def __init__(self, url: str) -> None:
        target = conninfo_to_dict(url)
        self._address = _address(str(target["host"]), int(str(target.get("port", 5432))))
        self._place = _bound(0)  # keeps the port while nobody listens there
        self._port = self._place.getsockname()[1]
        # Without encryption, which would hide the statements, or ask for it first.
        self.url = (
            f"postgresql://{target['user']}@127.0.0.1:{self._port}/{target['dbname']}"
            "?sslmode=disable&gssencmode=disable"
        )
        self._cuts: deque[Cut] = deque()
        self._connections: list[_Connection] = []
        self._threads: list[Thread] = []
        self._door = Lock()  # open while connections are let in
        self._flowing = Event()
        self._flowing.set()
        self.swallowed = Event()
        """Set when something was sent, by either side, since `swallow`."""
        self._listener = self._place

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(self, *exception: object) -> None:
        self.refuse()
        self.hand_on()
        for thread in self._threads:
            thread.join()
        self._place.close()

    def cut(self, function: str, moment: Moment) -> Cut:
        """Plan a cut, to be made once, after those that were planned before."""
        cut = Cut(function, moment)
        self._cuts.append(cut)
        return cut

    def cut_now(self) -> None:
        """Cut every connection there is."""
        for connection in self._connections:
            connection.cut()

    @contextmanager
    def hung_up(self) -> Iterator[None]:
        """Without a connection: the client has closed each one there was, and new ones wait."""
        with self._door:
            for connection in self._connections:
                connection.hang_up()
            self._connections.clear()
            yield

    def refuse(self) -> None:
        """Cut every connection, and refuse new ones."""
        with suppress(OSError):  # where a listener cannot be shut down, closing it is enough
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_now()

    def accept(self) -> None:
        """Let connections in."""
        self._listener = _bound(self._port)
        self._listener.listen()
        self._start(Thread(target=self._let_in, args=[self._listener]))

    def swallow(self) -> None:
        """Be a black hole: connections stay open and new ones are made, but nothing arrives."""
        self.swallowed.clear()
        self._flowing.clear()

    def hand_on(self) -> None:
        """Hand on what is sent, and what was swallowed."""
        self._flowing.set()

    def _let_in(self, listener: socket.socket) -> None:
        with suppress(OSError):  # refused from now on
            while True:
                client, _ = listener.accept()
                with self._door:
                    connection = _Connection(self, client, _connected(self._address))
                    self._connections.append(connection)
                    self._start(Thread(target=connection.run))

    def _start(self, thread: Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def flow(self) -> None:
        """Wait until what was received may be handed on."""
        if not self._flowing.is_set():
            self.swallowed.set()
            self._flowing.wait()

    def cut_of(self, sent: bytes) -> Cut | None:
        """The planned cut of this statement.

        A client sends the text of a statement first, so its name is whole in what arrives first.
        """
        if self._cuts and self._cuts[0].function.encode() in sent:
            return self._cuts.popleft()
        return None


class _Connection:
    """A client's connection, and the one to the server that was made for it."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._cut: Cut | None = None
        self._ended = Event()

    def run(self) -> None:
        """Hand on what both sides send, until one of them has enough."""
        answering = Thread(target=self._hand_on_answers)
        answering.start()
        self._hand_on_statements()
        answering.join()
        self._client.close()
        self._server.close()
        self._ended.set()

    def hang_up(self) -> None:
        """Tell the client that this was all, and wait until it has closed its side as well."""
        self._end_answers()
        self._ended.wait()

    def cut(self) -> None:
        for side in (self._client, self._server):
            with suppress(OSError):  # it was cut already
                side.shutdown(socket.SHUT_RDWR)

    def _hand_on_statements(self) -> None:
        for sent in _received(self._client):
            self._proxy.flow()
            cut = self._proxy.cut_of(sent)
            if cut and cut.moment is Moment.BEFORE:
                self._end(cut)
                return
            self._cut = cut or self._cut
            _send(self._server, sent)
        self.cut()

    def _hand_on_answers(self) -> None:
        end = b""
        for sent in _received(self._server):
            cut = self._cut  # before it is handed on: the next statement comes of that
            self._proxy.flow()
            end = (end + sent)[-len(READY) :]
            if cut is None or cut.moment is Moment.AFTER:
                _send(self._client, sent)
            if cut and end == READY:
                self._end(cut)
                return
        self._end_answers()

    def _end_answers(self) -> None:
        with suppress(OSError):  # the client has gone
            self._client.shutdown(socket.SHUT_WR)

    def _end(self, cut: Cut) -> None:
        self.cut()
        cut.happened.set()


def _received(side: socket.socket) -> Iterator[bytes]:
    with suppress(OSError):
        while sent := side.recv(65_536):
            yield sent


def _send(side: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # it has gone: its own thread finds that out
        side.sendall(data)


def _address(host: str, port: int) -> Address:
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def _connected(address: Address) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address)
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    return server


def _bound(port: int) -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", port))
    return place
