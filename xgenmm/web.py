"""Bytes from addresses that strangers wrote down. Knows no pictures.

What keeps such an address from reaching into our own network: its host is looked up once and every answer must be
globally routable; the connection goes to the address that was checked, with the certificate checked by name; each
redirect is judged anew; no proxy of the environment comes between. What keeps a server from holding us up: limits of
time and of bytes that count while the answer is read.
"""

import contextlib
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.response import BaseHTTPResponse
from urllib3.util import parse_url

from xgenmm.config import ConfigError

AGENT = "xgenmm"
"""How we call ourselves, to servers and in their robots.txt."""
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may be another one later."""
CHUNK = 65_536
IDLE_SECONDS = 10.0
"""How long an open connection is worth keeping: servers close theirs soon, too."""
MOST_IDLE = 256
"""Servers to which we keep connections open."""
EMBEDDING = ("64:ff9b:1::/48", "fec0::/10", "::/96")
"""IPv6 addresses of networks of one's own that `ipaddress` takes for everybody's, or that hide an IPv4 one."""
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 ones in networks without IPv4."""


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """How far we go for one address."""

    seconds: float = 30.0
    """For all of it: look-up, connection, redirects, answer."""
    max_bytes: int = 50_000_000
    """Longest answer."""
    redirects: int = 3
    allow_private: bool = False
    """Go to addresses of one's own machine and network, too."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.max_bytes < 1 or self.redirects < 0:
            raise ConfigError("seconds must be above 0, max_bytes at least 1 and redirects at least 0")


class WebError(Exception):
    """An address gave nothing. Reasons are short fixed words, so that they can be counted."""

    def __init__(self, reason: str, detail: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """`address_invalid`, `address_private`, `host_unknown`, `no_connection`, `certificate`, `timeout`,
        `short_read`, `too_large`, `too_many_redirects`, or `http_` and the status."""
        self.detail = detail
        self.passing = passing
        """Whether it may be otherwise the next time."""
        self.wait = wait
        """Seconds for which the server wants to be left alone."""


Judge = Callable[[Mapping[str, str]], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """An address, taken apart."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""

    @property
    def origin(self) -> str:
        """Scheme, host and port, as one writes them."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host, and port where it is not the usual one."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"


def parse_place(url: str) -> Place:
    """Take an address apart.

    Raises:
        WebError: It is none of a web server, or brings credentials along.
    """
    try:
        parts = parse_url(url.strip())
    except (LocationParseError, UnicodeError) as error:
        raise WebError("address_invalid", str(error)) from error
    if parts.scheme not in PORTS:
        raise WebError("address_invalid", f"{parts.scheme or 'no scheme'}: only http and https are fetched")
    host = (parts.host or "").strip("[]")
    if not host or "%" in host or parts.auth is not None or parts.port == 0:
        raise WebError("address_invalid", "no host, or more than host and port")
    return Place(scheme=parts.scheme, host=host, port=parts.port or PORTS[parts.scheme], target=parts.request_uri)


def is_public(address: str) -> bool:
    """Whether an IP address is everybody's: no machine of ours answers there, however it is written.

    >>> is_public("8.8.8.8"), is_public("127.0.0.1"), is_public("::ffff:8.8.8.8"), is_public("100.64.0.1")
    (True, False, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in TRANSLATED:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.ipv4_mapped or ip.sixtofour or ip.teredo or any(ip in ipaddress.ip_network(net) for net in EMBEDDING):
            return False
    return ip.is_global and not ip.is_multicast


class Web:
    """Fetches addresses; from any number of threads. Closing it ends what is under way."""

    def __init__(self, config: WebConfig) -> None:
        self.config = config
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # of odd headers the world is full
        self._tls = ssl.create_default_context()
        self._idle: dict[str, list[tuple[float, _Line]]] = {}
        self._busy: set[_Line] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, url: str, judge: Judge | None = None) -> bytes:
        """What an address holds.

        Args:
            url: The address.
            judge: Sees the headers of the answer before its contents are read, and may raise.

        Raises:
            WebError: It holds nothing, or nothing that we may have.
        """
        deadline = time.monotonic() + self.config.seconds
        for _ in range(self.config.redirects + 1):
            content, moved = self._ask(parse_place(url), deadline, judge)
            if moved is None:
                return content
            url = urljoin(url, moved)
        raise WebError("too_many_redirects", f"more than {self.config.redirects}, the last one to {url}")

    def close(self) -> None:
        """Close all connections, those in use as well."""
        with self._lock:
            self._closed = True
            idle = [line for group in self._idle.values() for _, line in group]
            self._idle.clear()
            for line in self._busy:
                line.cut()  # whoever uses it hangs up
        for line in idle:
            line.hang_up()

    def _ask(self, place: Place, deadline: float, judge: Judge | None) -> tuple[bytes, str | None]:
        """Contents, or where they went."""
        while (line := self._kept(place)) is not None:
            try:
                return self._talk(line, place, deadline, judge)
            except WebError as error:
                if error.reason != "no_connection":
                    raise  # else the server had closed it in the meantime
        return self._talk(self._connect(place, deadline), place, deadline, judge)

    def _talk(self, line: "_Line", place: Place, deadline: float, judge: Judge | None) -> tuple[bytes, str | None]:
        headers = {"Host": place.authority, "User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        whole, answer = False, None
        with _Limit(line, deadline) as limit:
            self._begin(line)
            try:
                line.timeout = limit.left()
                line.request("GET", place.target, headers=headers, preload_content=False)
                answer = line.getresponse()
                line.check()
                if answer.status in REDIRECTS and "location" in answer.headers:
                    return b"", answer.headers["location"]
                _check_status(answer)
                if judge is not None:
                    judge(answer.headers)
                content = self._read(answer)
                line.check()
                whole = True
                return content, None
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise limit.explain(error) from error
            finally:
                self._end(line, place, answer, keep=whole)

    def _read(self, answer: BaseHTTPResponse) -> bytes:
        most = self.config.max_bytes
        promised = answer.headers.get("content-length", "")
        if promised.isdigit() and int(promised) > most:
            raise WebError("too_large", f"{promised} bytes, and {most} are allowed")
        content = bytearray()
        for chunk in answer.stream(CHUNK):
            content += chunk
            if len(content) > most:
                raise WebError("too_large", f"more than {most} bytes")
        return bytes(content)

    # ---- connections ----

    def _connect(self, place: Place, deadline: float) -> "_Line":
        """A new connection to the first address of the host that takes one."""
        refused = WebError("host_unknown", place.host)
        for address in self._look_up(place):
            line = None
            try:
                line = _Line(address, place.port, max(0.001, deadline - time.monotonic()))
                with _Limit(line, deadline):
                    if place.scheme == "https":
                        line.sock = self._tls.wrap_socket(line.sock, server_hostname=place.host)
                return line
            except (OSError, ValueError) as error:
                if line is not None:
                    line.hang_up()
                refused = _explained(error, deadline)
        raise refused

    def _look_up(self, place: Place) -> list[str]:
        """The host's IP addresses, in the order of preference; all of them must be fit to go to."""
        try:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            passing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            raise WebError("host_unknown", f"{place.host}: {error}", passing=passing) from error
        addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
        private = [address for address in addresses if not is_public(address)]
        if private and not self.config.allow_private:
            raise WebError("address_private", f"{place.host} is {private[0]}, which is not on the public internet")
        return addresses

    def _kept(self, place: Place) -> "_Line | None":
        with self._lock:
            group = self._idle.get(place.origin, [])
            while group:
                since, line = group.pop()
                if time.monotonic() - since < IDLE_SECONDS:
                    return line
                line.hang_up()
            self._idle.pop(place.origin, None)
        return None

    def _begin(self, line: "_Line") -> None:
        with self._lock:
            if not self._closed:
                self._busy.add(line)
                return
        line.hang_up()
        raise WebError("no_connection", "we are closing", passing=True)

    def _end(self, line: "_Line", place: Place, answer: BaseHTTPResponse | None, *, keep: bool) -> None:
        left_over = []
        with self._lock:
            self._busy.discard(line)
            if keep and line.sock is not None and not self._closed:
                self._idle.setdefault(place.origin, []).append((time.monotonic(), line))
                if len(self._idle) > MOST_IDLE:
                    left_over = [one for _, one in self._idle.pop(next(iter(self._idle)))]
            else:
                left_over = [line]
                if answer is not None:
                    answer.close()
        for one in left_over:
            one.hang_up()


class _Line(HTTPConnection):
    """A connection to an address that was checked. It never opens itself again, and another thread can cut it."""

    auto_open = 0

    def __init__(self, address: str, port: int, seconds: float) -> None:
        super().__init__(address, port, timeout=seconds)
        self.sock = socket.create_connection((address, port), seconds)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._plug = self.sock.dup()  # `sock` moves into the answer, or into TLS, and is out of reach then
        self._was_cut = False

    def cut(self) -> None:
        """End what is under way: whoever reads meets the end."""
        self._was_cut = True
        with contextlib.suppress(OSError):  # it is closed already
            self._plug.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Make sure that what was read did not end because we cut it.

        Raises:
            TimeoutError: It did.
        """
        if self._was_cut:
            raise TimeoutError

    def hang_up(self) -> None:
        """Close it for good."""
        self.close()
        self._plug.close()


class _Limit:
    """Cuts a connection at its deadline, wherever it is: a timeout of the socket counts from byte to byte."""

    def __init__(self, line: _Line, deadline: float) -> None:
        self._deadline = deadline
        self._timer = threading.Timer(self.left(), line.cut)
        self._timer.daemon = True

    def left(self) -> float:
        """Seconds to the deadline."""
        return max(0.001, self._deadline - time.monotonic())

    def explain(self, error: Exception) -> WebError:
        """What an error means, that came before the deadline or because of it."""
        return _explained(error, self._deadline)

    def __enter__(self) -> "_Limit":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _explained(error: Exception, deadline: float) -> WebError:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, TimeoutError) or "timed out" in text or time.monotonic() >= deadline:
        return WebError("timeout", "it took too long", passing=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return WebError("certificate", text)
    if "IncompleteRead" in text:
        return WebError("short_read", text, passing=True)
    if isinstance(error, ValueError | http.client.InvalidURL):
        return WebError("address_invalid", text)
    return WebError("no_connection", text, passing=True)


def _check_status(answer: BaseHTTPResponse) -> None:
    if answer.status == 200:
        return
    later = answer.headers.get("retry-after", "")
    raise WebError(
        f"http_{answer.status}",
        answer.reason or "",
        passing=answer.status in PASSING,
        wait=float(later) if later.isdigit() else 0.0,
    )
