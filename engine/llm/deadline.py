"""HTTP that ends on time: every blocking step is capped at the time left.

In: requests of an httpx2 client, made inside `within(seconds)`. Out: responses, or httpx2's own
timeout and network errors. Knows nothing about LLMs, retries or what a reply means.

A client's timeout restarts with every byte, so a server that drips bytes holds its caller for ever.
Here the deadline travels in a thread-local, and httpcore2's network backend (its public seam) gives
each name lookup, connect, TLS handshake, read and write what is left until then. Past the deadline
it raises the library's own timeout, which makes the pool close that connection. Also here: a cap on
the bytes of a reply, no compression (a small reply cannot grow), proxies as the environment says
but never for loopback. `stop()` may be called from any thread and wakes calls that wait.

No thread is started here but those of `lookup.py`. What stays unbounded: a TLS proxy in front of a
TLS endpoint may drip inside one record.
"""

import contextlib
import logging
import math
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from engine.llm.lookup import Lookups, proxy_for

MAX_REPLY = 8 * 1024 * 1024  # bytes on the wire, headers included
MAX_CONNECT = 10.0  # seconds for a lookup or a connection; what takes longer is not there

SocketOptions = Iterable[Any] | None


@dataclass(slots=True, eq=False)
class Scope:
    """What one `within` allows, and what happened in it."""

    deadline: float  # monotonic
    outer: "Scope | None"
    received: int = 0  # bytes
    steps: int = 0  # times that the backend was asked
    oversize: bool = False
    sent: bool = False  # something of a request may have left
    exchanges: int = 0  # counted by the client, in the outermost scope

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    @property
    def outermost(self) -> "Scope":
        """The scope of the whole call."""
        return self if self.outer is None else self.outer.outermost


class _Current(threading.local):
    scope: Scope | None = None


_current = _Current()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[Scope]:
    """All requests of this thread end in `seconds`, or at an earlier deadline around this one."""
    outer = _current.scope
    deadline = time.monotonic() + seconds
    scope = Scope(deadline if outer is None else min(deadline, outer.deadline), outer)
    _current.scope = scope
    try:
        yield scope
    finally:
        _current.scope = outer


def current() -> Scope:
    """The innermost `within` of this thread; RuntimeError outside of any."""
    if _current.scope is None:
        raise RuntimeError("a request was made outside of `within`")
    return _current.scope


class DeadlineTransport(httpx2.BaseTransport):
    """The transport of one client for one base URL; threads share it, each with a connection."""

    def __init__(self, base_url: str, max_reply: int = MAX_REPLY) -> None:
        _hush()
        url = httpx2.URL(base_url)
        self._backend = Backend(max_reply=max_reply)
        self._ssl = httpx2.create_ssl_context() if url.scheme == "https" else None
        self._proxy = proxy_for(url)
        self._own = threading.local()  # a pool of one connection for each thread
        self._pools: list[httpcore2.ConnectionPool] = []
        self._lock = threading.Lock()  # protects the list

    @property
    def _pool(self) -> httpcore2.ConnectionPool:
        """This thread's. One pool for all threads looks at every connection, twice a request."""
        pool: httpcore2.ConnectionPool | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = self._own.pool = httpcore2.ConnectionPool(
                ssl_context=self._ssl,
                proxy=self._proxy,
                max_connections=1,
                max_keepalive_connections=1,
                keepalive_expiry=30.0,
                network_backend=self._backend,
            )
            with self._lock:
                self._pools.append(pool)
        return pool

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body still to be read; both under the thread's deadline."""
        scope = current()
        request.headers["Accept-Encoding"] = "identity"
        wait = max(scope.left, 0.0)
        timeouts = {"connect": wait, "read": wait, "write": wait, "pool": wait}
        raw = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions={**request.extensions, "timeout": timeouts},
        )
        with _translated():
            response = self._pool.handle_request(raw)
        if scope.steps == 0:
            response.close()
            raise RuntimeError(_UNHOOKED)
        body = _Body(response)
        if _coding(response) != b"identity":
            body.close()
            raise httpx2.DecodingError("the reply is compressed although we accept no compression")
        return httpx2.Response(
            response.status,
            headers=response.headers,
            stream=body,
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close all connections; no call may be under way."""
        with self._lock:
            pools = list(self._pools)
        for pool in pools:
            pool.close()

    def stop(self) -> None:
        """Wake the calls under way: their connections end at once. Any thread may call it."""
        self._backend.stop()


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
            share = _left(httpcore2.ConnectTimeout) / (len(addresses) - number + 1)
            wait = _least(timeout, min(share, MAX_CONNECT))
            try:
                stream = self._inner.connect_tcp(address, port, wait, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                return self.wrapped(stream)
        raise httpcore2.ConnectError(f"no address for {host}")

    def _addresses(self, host: str, port: int) -> list[str]:
        wait = min(_left(httpcore2.ConnectTimeout), MAX_CONNECT)
        try:
            return self._lookups.addresses(host, port, wait)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"looking up {host} takes too long") from error
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
        left = _left(httpcore2.ConnectTimeout)
        stream = self._inner.start_tls(ssl_context, server_hostname, _least(timeout, left))
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


def _hush() -> None:
    """httpcore2 logs headers at DEBUG, and a server may repeat the key in one."""
    log = logging.getLogger("httpcore2")
    if log.level == logging.NOTSET:  # else somebody wants just that
        log.setLevel(logging.INFO)


def self_check() -> None:
    """RuntimeError if this httpcore2 no longer asks our backend; costs no connection."""
    answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"]
    backend = Backend(httpcore2.MockBackend(answer))
    with within(5.0) as scope, httpcore2.ConnectionPool(network_backend=backend) as pool:
        response = pool.request("POST", "http://127.0.0.1/", content=b"?")
    if response.content != b"ok" or scope.steps < _FEWEST_STEPS:
        raise RuntimeError(_UNHOOKED)


_PIECE = 16 * 1024  # bytes given to the socket at once
_FEWEST_STEPS = 4  # connect, write the request, read its head and its body
_UNHOOKED = (
    "This version of httpcore2 does not use our network backend, so no call would end on time: "
    "install the version that reelmine was tested with."
)
_ERRORS: tuple[tuple[type[Exception], type[httpx2.TransportError]], ...] = (  # specific ones first
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx2.ReadTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.TimeoutException, httpx2.TimeoutException),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.ReadError, httpx2.ReadError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.NetworkError, httpx2.NetworkError),
    (httpcore2.ProxyError, httpx2.ProxyError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
    (httpcore2.LocalProtocolError, httpx2.LocalProtocolError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
    (httpcore2.ProtocolError, httpx2.ProtocolError),
)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """httpcore2's errors as httpx2's, which is what clients catch."""
    try:
        yield
    except Exception as error:
        for theirs, public in _ERRORS:
            if isinstance(error, theirs):
                raise public(str(error)) from error
        raise


class _Body(httpx2.SyncByteStream):
    """The body of a response, with translated errors."""

    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _translated():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


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


def _coding(response: httpcore2.Response) -> bytes:
    codings = [value for name, value in response.headers if name.lower() == b"content-encoding"]
    return b",".join(codings).strip().lower() or b"identity"
