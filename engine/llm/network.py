"""Connections on which every blocking step is capped at the time left.

In: hosts and bytes, from httpcore2's pools, in a thread inside `within` (`deadline.py`). Out:
connections and bytes, or httpcore2's own timeout and network errors. Knows nothing about HTTP.

A client's timeout restarts with every byte, so a server that drips bytes holds its caller for ever.
Here httpcore2's network backend (its public seam) gives each name lookup, connect, TLS handshake,
read and write what is left until the deadline. Past it a step raises the library's own timeout,
which makes the pool close that connection. Who takes longer than MAX_CONNECT to be reached is not
there: ConnectError, not a timeout. Also here: a cap on the bytes of a reply.

No thread is started here but those of `lookup.py`. What stays unbounded: a TLS proxy in front of a
TLS endpoint may drip inside one record.
"""

import contextlib
import math
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore2

from engine.llm.deadline import current
from engine.llm.lookup import Lookups

MAX_REPLY = 8 * 1024 * 1024  # bytes on the wire, headers included
MAX_CONNECT = 10.0  # seconds for a lookup, a connection or a TLS handshake
_PIECE = 16 * 1024  # bytes given to the socket at once

SocketOptions = Iterable[Any] | None


class Backend(httpcore2.NetworkBackend):
    """httpcore2's stock backend, each step capped by the thread's deadline."""

    def __init__(
        self, inner: httpcore2.NetworkBackend | None = None, max_reply: int = MAX_REPLY
    ) -> None:
        self._inner = inner or httpcore2.SyncBackend()
        self._max_reply = max_reply
        self._lookups = Lookups()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._lock = threading.Lock()  # protects the two below
        self._stopped = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address that answers; each gets its share of what is left."""
        addresses = self._addresses(host, port)
        for number, address in enumerate(addresses, start=1):
            sharing = len(addresses) - number + 1
            try:
                with _reaching(f"connecting to {address}", sharing) as most:
                    wait = _least(timeout, most)
                    stream = self._inner.connect_tcp(
                        address, port, wait, local_address, socket_options
                    )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                return self.wrapped(stream)
        raise httpcore2.ConnectError(f"no address for {host}")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            with _reaching(f"looking up {host}") as wait:
                return self._lookups.addresses(host, port, wait)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host}: {error}") from error

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: SocketOptions = None
    ) -> httpcore2.NetworkStream:
        """A connection to a socket file."""
        left = _left(httpcore2.ConnectTimeout)
        return self.wrapped(
            self._inner.connect_unix_socket(path, _least(timeout, left), socket_options)
        )

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the deadline."""
        time.sleep(min(seconds, _left(httpcore2.ConnectTimeout)))

    def wrapped(self, inner: httpcore2.NetworkStream) -> "Stream":
        """The stream under our caps; closed at once if the transport was stopped."""
        stream = Stream(inner, self, self._max_reply)
        with self._lock:
            self._streams.add(stream)
            stopped = self._stopped
        if stopped:
            stream.close()
            raise httpcore2.ConnectError("stopped")
        return stream

    def stop(self) -> None:
        """Shut down all connections. Closing them here would not wake a blocked read."""
        with self._lock:
            self._stopped = True
            streams = list(self._streams)
        for stream in streams:
            stream.shut_down()


class Stream(httpcore2.NetworkStream):
    """One connection, each step capped by the deadline of the thread that uses it."""

    def __init__(self, inner: httpcore2.NetworkStream, backend: Backend, max_reply: int) -> None:
        self._inner = inner
        self._backend = backend
        self._max_reply = max_reply

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Up to `max_bytes`; ReadError when the reply exceeds its cap."""
        left = _left(httpcore2.ReadTimeout)
        data = self._inner.read(max_bytes, _least(timeout, left))
        scope = current()
        scope.received += len(data)
        if scope.received > self._max_reply:
            scope.oversize = True
            raise httpcore2.ReadError(f"the reply has more than {self._max_reply} bytes")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of `buffer`, in pieces, so that a server that reads slowly cannot hold us either."""
        current().sent = True
        view = memoryview(buffer)
        while view:
            left = _left(httpcore2.WriteTimeout)
            self._inner.write(bytes(view[:_PIECE]), _least(timeout, left))
            view = view[_PIECE:]

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        """The same connection, encrypted."""
        with _reaching("the TLS handshake") as wait:
            stream = self._inner.start_tls(ssl_context, server_hostname, _least(timeout, wait))
        return self._backend.wrapped(stream)

    def get_extra_info(self, info: str) -> Any:
        """As the inner stream has it."""
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def shut_down(self) -> None:
        """End the connection under a thread that may be reading it."""
        sock = self._inner.get_extra_info("socket")
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):  # closed meanwhile
                # the plain socket's method: the TLS one would take the session from its reader
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def _reaching(step: str, sharing: int = 1) -> Iterator[float]:
    """Seconds for one step on the way to a host, of so many that share what is left.

    Past MAX_CONNECT nobody is there: ConnectError. Past the deadline: ConnectTimeout.
    """
    left = _left(httpcore2.ConnectTimeout)
    wait = min(left / sharing, MAX_CONNECT)
    try:
        yield wait
    except (TimeoutError, httpcore2.ConnectTimeout):
        # told by its limit, not by the clock: a step may end a little before the deadline
        late = httpcore2.ConnectError if left > MAX_CONNECT else httpcore2.ConnectTimeout
        # the cause says no more than "timed out", and would be taken for the reason
        raise late(f"{step} took more than {wait:.3g} s") from None


def _left(past: type[Exception]) -> float:
    """Seconds left for the next step, counting it; raises `past` if there are none."""
    scope = current()
    scope.steps += 1
    if scope.left <= 0:
        raise past("the deadline has passed")
    return scope.left


def _least(timeout: float | None, left: float) -> float:
    """Down to whole milliseconds: poll counts in them, and what it rounds up would be too late."""
    least = left if timeout is None else min(timeout, left)
    return max(math.floor(least * 1e3) / 1e3, 1e-3)  # 0 would make the socket non-blocking
