"""The transport over real sockets: whatever a server does, a request ends on time."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2
import httpx2
import pytest

from engine.llm import lookup, network
from engine.llm.deadline import within
from engine.llm.lookup import Lookups
from engine.llm.transport import DeadlineTransport, _translated, self_check

Behave = Callable[[socket.socket, threading.Event], None]
LATE = 5.0  # seconds that a busy machine may add to a deadline of 0.3 s; a hang has no end


class RawServer:
    """Accepts on loopback; `behave` has each connection in a thread of its own until close()."""

    def __init__(self, behave: Behave) -> None:
        self.connections: list[socket.socket] = []
        self._behave = behave
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._ended.is_set():
                connection.close()
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._behave(connection, self._ended)

    def close(self) -> None:
        self._ended.set()
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes accept()
        self._threads[0].join()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for connection in self.connections:
            connection.close()
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Behave], RawServer]]:
    servers: list[RawServer] = []

    def start(behave: Behave) -> RawServer:
        servers.append(RawServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@contextmanager
def client(url: str, **options: Any) -> Iterator[httpx2.Client]:
    transport = DeadlineTransport(url, **options)
    with httpx2.Client(transport=transport, trust_env=False, timeout=None) as opened:
        yield opened


def reply(body: bytes = b"ok", head: bytes = b"") -> Behave:
    """Answer every request on the connection."""

    def behave(connection: socket.socket, _: threading.Event) -> None:
        while connection.recv(65536):
            length = str(len(body)).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\n%bContent-Length: %b\r\n\r\n" % (head, length))
            connection.sendall(body)

    return behave


def hang(_: socket.socket, ended: threading.Event) -> None:
    ended.wait()


def drip_headers(connection: socket.socket, ended: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not ended.wait(0.02):
        connection.sendall(b"a")


def drip_body(connection: socket.socket, ended: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not ended.wait(0.02):
        connection.sendall(b"a")


def flood(connection: socket.socket, ended: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not ended.is_set():
        connection.sendall(b"a" * 65536)


HOSTILE = [hang, drip_headers, drip_body, flood]


def test_healthy_requests_are_answered_over_one_connection(
    serve: Callable[[Behave], RawServer],
) -> None:
    server = serve(reply())
    with client(server.url()) as http, within(30.0):
        assert [http.get(server.url()).text for _ in range(3)] == ["ok"] * 3
    assert len(server.connections) == 1


@pytest.mark.parametrize("behave", HOSTILE, ids=lambda behave: behave.__name__)
def test_request_ends_at_the_deadline(serve: Callable[[Behave], RawServer], behave: Behave) -> None:
    server = serve(behave)
    with client(server.url(), max_reply=1 << 40) as http:
        began = time.monotonic()
        with within(0.3), pytest.raises(httpx2.ReadTimeout):
            http.post(server.url(), content=b"?")
        assert 0.29 <= time.monotonic() - began < 0.3 + LATE


def test_connection_that_missed_its_deadline_is_not_used_again(
    serve: Callable[[Behave], RawServer],
) -> None:
    def slow_once(connection: socket.socket, ended: threading.Event) -> None:
        if len(server.connections) == 1:
            connection.recv(65536)
            ended.wait(0.6)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        else:
            reply(b"mine")(connection, ended)

    server = serve(slow_once)
    with client(server.url()) as http:
        with within(0.2), pytest.raises(httpx2.ReadTimeout):
            http.get(server.url())
        with within(30.0):
            assert http.get(server.url()).text == "mine"


def test_reply_over_the_byte_cap_is_cut_off(serve: Callable[[Behave], RawServer]) -> None:
    server = serve(flood)
    with client(server.url(), max_reply=1_000_000) as http, within(60.0) as scope:
        with pytest.raises(httpx2.ReadError, match="more than 1000000 bytes"):
            http.get(server.url())
        assert scope.oversize
        assert scope.received < 2_000_000
        assert scope.left > 0


def test_server_that_does_not_read_is_left_at_the_deadline(
    serve: Callable[[Behave], RawServer],
) -> None:
    server = serve(hang)
    with client(server.url()) as http, within(0.3), pytest.raises(httpx2.WriteTimeout):
        http.post(server.url(), content=b"x" * 50_000_000)


def test_server_that_never_answers_tls_is_left_at_the_deadline(
    serve: Callable[[Behave], RawServer],
) -> None:
    server = serve(hang)
    url = server.url("https")
    with client(url) as http, within(0.3), pytest.raises(httpx2.ConnectTimeout):
        http.get(url)


def test_server_that_never_answers_tls_counts_as_unreachable_long_before_a_late_deadline(
    serve: Callable[[Behave], RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "MAX_CONNECT", 0.3)
    url = serve(hang).url("https")
    refused = pytest.raises(httpx2.ConnectError, match=r"the TLS handshake took more than 0\.3 s")
    with client(url) as http, within(30.0), refused:
        http.get(url)


def test_refused_connection_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with client(url) as http, within(5.0), pytest.raises(httpx2.ConnectError):
        http.get(url)


def test_body_shorter_than_announced_is_a_protocol_error(
    serve: Callable[[Behave], RawServer],
) -> None:
    def short(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort")
        connection.close()

    server = serve(short)
    with client(server.url()) as http, within(5.0), pytest.raises(httpx2.RemoteProtocolError):
        http.get(server.url())


def test_redirect_is_not_followed(serve: Callable[[Behave], RawServer]) -> None:
    elsewhere = serve(reply())

    def redirect(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(65536)
        place = elsewhere.url().encode()
        connection.sendall(b"HTTP/1.1 307 Go\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % place)

    server = serve(redirect)
    with client(server.url()) as http, within(5.0):
        assert http.post(server.url(), content=b"transcript").status_code == 307
    assert elsewhere.connections == []


def test_no_compression_is_asked_for(serve: Callable[[Behave], RawServer]) -> None:
    heads: list[bytes] = []

    def listen(connection: socket.socket, _: threading.Event) -> None:
        heads.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = serve(listen)
    with client(server.url()) as http, within(5.0):
        http.get(server.url())
    assert b"\r\naccept-encoding: identity\r\n" in heads[0].lower()


def test_compressed_reply_is_refused_unread(serve: Callable[[Behave], RawServer]) -> None:
    server = serve(reply(b"\x1f\x8b" * 9, b"Content-Encoding: gzip\r\n"))
    with client(server.url()) as http, within(5.0), pytest.raises(httpx2.DecodingError):
        http.get(server.url())


def test_request_without_a_deadline_is_our_own_mistake(
    serve: Callable[[Behave], RawServer],
) -> None:
    server = serve(reply())
    with client(server.url()) as http, pytest.raises(RuntimeError, match="outside of `within`"):
        http.get(server.url())


@pytest.mark.parametrize("behave", [hang, drip_body], ids=lambda behave: behave.__name__)
def test_stop_wakes_a_request_that_waits(
    serve: Callable[[Behave], RawServer], behave: Behave
) -> None:
    server = serve(behave)
    transport = DeadlineTransport(server.url())
    ended: list[Exception] = []

    def wait() -> None:
        with within(120.0), httpx2.Client(transport=transport) as http:
            try:
                http.get(server.url())
            except httpx2.TransportError as error:
                ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not server.connections:
        time.sleep(0.01)
    time.sleep(0.1)
    transport.stop()
    thread.join(LATE)
    assert not thread.is_alive()
    assert len(ended) == 1


def test_hostile_servers_leave_no_thread_and_no_descriptor(
    serve: Callable[[Behave], RawServer],
) -> None:
    servers = [serve(behave) for behave in HOSTILE]
    outcomes: list[str] = []

    def calls(server: RawServer) -> None:
        with client(server.url()) as http:
            for _ in range(3):
                with within(0.2):
                    try:
                        http.get(server.url())
                    except httpx2.TransportError as error:
                        outcomes.append(type(error).__name__)

    calls(servers[0])  # what is loaded once is loaded now
    threads_before, open_before = _census(servers)
    threads = [threading.Thread(target=calls, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3 + 12
    assert _census(servers) == (threads_before, open_before)


def _census(servers: list[RawServer]) -> tuple[int, int]:
    """Threads and descriptors, without those of the servers' side of each connection."""
    theirs = sum(len(server.connections) for server in servers)
    alive = [t for t in threading.enumerate() if "_serve" not in t.name]
    return len(alive), len(os.listdir("/proc/self/fd")) - theirs


# names and proxies


def test_lookup_that_hangs_holds_one_thread_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    def hanging(*_: Any, **__: Any) -> list[Any]:  # no real resolver hangs on demand
        ended.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    before = threading.active_count()
    with client("http://llm.test/") as http:
        for _ in range(3):
            began = time.monotonic()
            with within(0.2), pytest.raises(httpx2.ConnectTimeout, match=r"llm\.test"):
                http.get("http://llm.test/")
            assert time.monotonic() - began < 0.2 + LATE
        monkeypatch.setattr(network, "MAX_CONNECT", 0.2)
        with within(30.0), pytest.raises(httpx2.ConnectError, match=r"looking up llm\.test"):
            http.get("http://llm.test/")
    assert threading.active_count() == before + 1
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "lookup":
            thread.join()


def test_name_without_an_address_is_a_connect_error() -> None:
    refused = pytest.raises((httpx2.ConnectError, httpx2.ConnectTimeout))
    with client("http://nowhere.invalid/") as http, within(20.0), refused:
        http.get("http://nowhere.invalid/")


def test_addresses_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def counted(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    lookups = Lookups()
    assert lookups.addresses("localhost", 80, 5.0) == lookups.addresses("localhost", 80, 5.0)
    assert lookups.addresses("127.0.0.1", 80, 5.0) == ["127.0.0.1"]
    assert asked == ["localhost"]
    monkeypatch.setattr(lookup, "LASTS", 0.0)
    fresh = Lookups()
    fresh.addresses("localhost", 80, 5.0)
    fresh.addresses("localhost", 80, 5.0)
    assert asked == ["localhost"] * 3


def test_second_address_is_tried_when_the_first_refuses(
    serve: Callable[[Behave], RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def two_addresses(host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "two.test":
            return real(host, *args, **kwargs)
        return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    server = serve(reply())  # listens on 127.0.0.1 only
    url = server.url(host="two.test")
    with client(url) as http, within(10.0):
        assert http.get(url).text == "ok"


def test_proxy_of_the_environment_is_used_but_never_for_loopback(
    serve: Callable[[Behave], RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(reply(b"by proxy")), serve(reply(b"direct"))
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url())
    for url, answer in (
        ("http://llm.test/", "by proxy"),
        (server.url(), "direct"),
        (server.url(host="localhost"), "direct"),
    ):
        with client(url) as http, within(10.0):
            assert http.get(url).text == answer
    monkeypatch.setenv("no_proxy", "llm.test")
    assert lookup.proxy_for(httpx2.URL("http://llm.test/")) is None
    assert lookup.proxy_for(httpx2.URL("http://other.test/")) is not None


def test_self_check_passes_and_costs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    self_check()


def test_client_library_that_drops_our_backend_is_found_out(
    serve: Callable[[Behave], RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(httpcore2.ConnectionPool):
        """What a new version would do if it renamed or ignored the parameter."""

        def __init__(self, network_backend: Any = None, **options: Any) -> None:
            answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"]
            super().__init__(network_backend=httpcore2.MockBackend(answer), **options)

    server = serve(reply())
    monkeypatch.setattr(httpcore2, "ConnectionPool", Deaf)
    with pytest.raises(RuntimeError, match="does not use our network backend"):
        self_check()
    found_out = pytest.raises(RuntimeError, match="does not use our network backend")
    with client(server.url()) as http, within(5.0), found_out:
        http.get(server.url())


def test_errors_have_the_class_that_the_stock_transport_gives_them() -> None:
    from httpx2._transports import default  # private, but only to compare with

    for theirs, public in default._load_httpcore_exceptions().items():
        with pytest.raises(public) as caught, _translated():
            raise theirs("why")
        assert type(caught.value) is public


def test_certificates_are_checked() -> None:
    context = DeadlineTransport("https://llm.test/")._pool._ssl_context
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
