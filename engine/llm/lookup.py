"""Where a URL leads: the addresses of its host, and by which proxy.

In: host names and URLs. Out: addresses within a time limit, or TimeoutError, or the resolver's
OSError. Knows nothing about deadlines or requests.

getaddrinfo cannot be given a timeout, so each lookup runs in a daemon thread of its own, at most
one for a name at a time; a resolver that hangs holds that thread until its own limits end it, and
nobody else.
"""

import ipaddress
import socket
import threading
import time
import urllib.request

import httpcore2
import httpx2

from engine.llm.endpoint import is_loopback

LASTS = 60.0  # seconds that an address is believed


class Lookups:
    """Addresses of names, kept for a while; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the two below
        self._known: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._running: dict[tuple[str, int], _Lookup] = {}

    def addresses(self, host: str, port: int, wait: float) -> list[str]:
        """In the system's order, at least one; waits at most `wait` seconds."""
        if _is_address(host):
            return [host]
        key = (host, port)
        with self._lock:
            believed_until, known = self._known.get(key, (0.0, []))
            if time.monotonic() < believed_until:
                return known
            lookup = self._running.get(key)
            if lookup is None or lookup.done.is_set():
                lookup = self._running[key] = _Lookup(host, port)
        if not lookup.done.wait(wait):
            raise TimeoutError
        if lookup.error:
            raise OSError(str(lookup.error)) from lookup.error
        with self._lock:
            self._known[key] = (time.monotonic() + LASTS, lookup.addresses)
        return lookup.addresses


class _Lookup:
    """One running getaddrinfo."""

    def __init__(self, host: str, port: int) -> None:
        self.done = threading.Event()
        self.addresses: list[str] = []
        self.error: OSError | UnicodeError | None = None
        args = (host, port)
        threading.Thread(target=self._run, args=args, name="lookup", daemon=True).start()

    def _run(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
            self.error = error
        finally:
            self.done.set()


def proxy_for(url: httpx2.URL) -> httpcore2.Proxy | None:
    """The proxy that the environment names for this URL; none for loopback, whatever it says."""
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    proxy = httpx2.Proxy(address if "://" in address else f"http://{address}")
    return httpcore2.Proxy(str(proxy.url), auth=proxy.raw_auth, headers=proxy.headers.raw)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
