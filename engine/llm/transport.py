"""HTTP that ends on time: the transport of an httpx2 client, over connections that are capped.

In: requests of the client, made inside `within(seconds)`. Out: responses, or httpx2's own timeout
and network errors. Knows nothing about LLMs, retries or what a reply means.

The steps of a connection end on time by `network.py`. What is decided here: each thread has a
connection of its own, a reply is not compressed (so a small one cannot grow), proxies are as the
environment says but never for loopback. `stop()` may be called from any thread and wakes calls that
wait; no thread is started here.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator

import httpcore2
import httpx2

from engine.llm.deadline import current, within
from engine.llm.lookup import proxy_for
from engine.llm.network import MAX_REPLY, Backend


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


def self_check() -> None:
    """RuntimeError if this httpcore2 no longer asks our backend; costs no connection."""
    answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"]
    backend = Backend(httpcore2.MockBackend(answer))
    with within(5.0) as scope, httpcore2.ConnectionPool(network_backend=backend) as pool:
        response = pool.request("POST", "http://127.0.0.1/", content=b"?")
    if response.content != b"ok" or scope.steps < _FEWEST_STEPS:
        raise RuntimeError(_UNHOOKED)


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


def _hush() -> None:
    """httpcore2 logs headers at DEBUG, and a server may repeat the key in one."""
    log = logging.getLogger("httpcore2")
    if log.level == logging.NOTSET:  # else somebody wants just that
        log.setLevel(logging.INFO)


def _coding(response: httpcore2.Response) -> bytes:
    codings = [value for name, value in response.headers if name.lower() == b"content-encoding"]
    return b",".join(codings).strip().lower() or b"identity"
