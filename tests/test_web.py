"""Addresses that strangers wrote down: what is fetched, and what is refused."""

import ipaddress
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from web_server import body, dripping, endless, moved, serving, short, silent, slow_header, status

from xgenmm.web import Web, WebConfig, WebError, is_public, parse_place

OPEN = WebConfig(seconds=5.0, allow_private=True)


def reason(url: str, config: WebConfig = OPEN) -> str:
    with Web(config) as web, pytest.raises(WebError) as failure:
        web.get(url)
    return failure.value.reason


def test_what_a_page_holds():
    with serving({"/q": body(b"query")}) as server, Web(OPEN) as web:
        assert web.get(f"{server.url}/q?x=1&y=%20") == b"query"
        assert server.asked == {"/q?x=1&y=%20": 1}  # as it was written
        assert web.get(f"{server.url}/q#fragment") == b"query"
        assert server.agents == {"xgenmm"}


def test_a_connection_is_used_again_and_opened_anew_when_the_server_has_closed_it():
    def closing(handler):
        body(b"last", Connection="keep-alive")(handler)
        handler.close_connection = True  # after promising the contrary

    with serving({"/a": body(b"a"), "/closing": closing}) as server, Web(OPEN) as web:
        assert [web.get(f"{server.url}/a") for _ in range(3)] == [b"a"] * 3
        assert len(server.connections) == 1
        assert web.get(f"{server.url}/closing") == b"last"
        assert web.get(f"{server.url}/a") == b"a"
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    "address",
    [
        *(
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
        ),
        *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
        *("64:ff9b:1::1", "100::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "2001:0:7f00:1::", "fc00::1"),
        *("fd12::1", "fe80::1", "fec0::1", "ff02::1"),
    ],
)
def test_addresses_that_are_not_everybodys(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_that_are_everybodys(address):
    assert is_public(address)


def test_public_v4_agrees_with_the_registry():
    """Random addresses against IANA's list of special-purpose blocks, written down here."""
    special = [
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    ]
    blocks = [ipaddress.ip_network(block) for block in special]
    for number in range(0, 2**32, 7_654_321):
        ip = ipaddress.ip_address(number)
        if ip in ipaddress.ip_network("192.0.0.0/24"):
            continue  # a few of these are everybody's
        assert is_public(str(ip)) == (not any(ip in block for block in blocks)), ip


HOSTILE = [
    *("http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/"),
    *("http://0177.0.0.1:{port}/", "http://127.1:{port}/", "http://0:{port}/", "http://[::1]:{port}/"),
    *("http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://LOCALHOST:{port}/"),
    *("http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://10.1.2.3/", "http://0.0.0.0:{port}/"),
]


@pytest.mark.parametrize("url", HOSTILE)
def test_no_way_to_this_machine(url):
    with serving({"/": body(b"secret")}) as server:
        assert reason(url.format(port=server.server_port), WebConfig(seconds=5.0)) in (
            "address_private",
            "host_unknown",
        )
        assert not server.asked


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.org/a.jpg", "gopher://example.org/", "data:image/png;base64,AAAA"),
        *("//example.org/a.jpg", "example.org/a.jpg", "http://", "http:///a.jpg", "http://user:pw@127.0.0.1/"),
        *("http://127.0.0.1:99999/", "http://127.0.0.1:0/", "http://[::1/", "http://a b/", "javascript:alert(1)"),
        *("http://[fe80::1%25eth0]/", "http://exa\nmple.org/", "unix:/var/run/docker.sock", ""),
    ],
)
def test_what_is_no_address_of_a_web_server(url):
    assert reason(url) == "address_invalid"


def test_a_host_that_is_private_only_sometimes(monkeypatch):
    """A name with a public and a private address is refused; and it is looked up once, so that it cannot change."""
    asked = []

    def answers(*addresses):
        def look_up(host, port, **_):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        return look_up

    monkeypatch.setattr(socket, "getaddrinfo", answers("93.184.215.14", "127.0.0.1"))
    assert reason("http://rebinding.example/", WebConfig()) == "address_private"
    assert asked == ["rebinding.example"]


def test_it_connects_to_the_address_that_was_looked_up(monkeypatch):
    with serving({"/": body(b"here")}) as server:
        real, asked = socket.getaddrinfo, []

        def look_up(host, port, *more, **options):
            asked.append(host)
            return real("127.0.0.1" if host == "pinned.example" else host, port, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with Web(OPEN) as web:
            assert web.get(f"http://pinned.example:{server.server_port}/") == b"here"
        assert asked.count("pinned.example") == 1


def test_no_proxy_comes_between(monkeypatch):
    with serving({"/": body(b"straight")}) as server, Web(OPEN) as web:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert web.get(f"{server.url}/") == b"straight"


def test_redirects_are_followed_as_far_as_is_allowed():
    pages = {"/0": body(b"end"), "/loop": moved("/loop")} | {
        f"/{n}": moved(f"/{n - 1}", 301 + n % 2) for n in (1, 2, 3, 4)
    }
    with serving(pages) as server, Web(OPEN) as web:
        assert web.get(f"{server.url}/3") == b"end"
        assert reason(f"{server.url}/4") == "too_many_redirects"
        assert reason(f"{server.url}/loop") == "too_many_redirects"
        assert server.asked["/loop"] == 4


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://127.0.0.1:{port}/secret", "address_private"),
        ("//127.0.0.1:{port}/secret", "address_private"),
        ("http://[::ffff:127.0.0.1]:{port}/secret", "address_private"),
        ("file:///etc/passwd", "address_invalid"),
        ("gopher://127.0.0.1:{port}/", "address_invalid"),
    ],
)
def test_a_redirect_is_judged_as_an_address(target, expected, monkeypatch):
    """The first server passes for a public one; the one that it points to does not."""
    with serving({"/secret": body(b"secret")}) as server:
        server.pages["/"] = moved(target.format(port=server.server_port))
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *more, **o: real("127.0.0.1" if host == "public.example" else host, *more, **o),
        )
        looked = Web._look_up
        monkeypatch.setattr(
            Web,
            "_look_up",
            lambda self, place: ["127.0.0.1"] if place.host == "public.example" else looked(self, place),
        )
        assert reason(f"http://public.example:{server.server_port}/", WebConfig(seconds=5.0)) == expected
        assert not server.asked["/secret"]


@pytest.mark.parametrize("code", [204, 301, 400, 401, 403, 404, 410, 429, 451, 500, 503])
def test_statuses(code):
    with serving({"/": status(code)}) as server, Web(OPEN) as web:
        with pytest.raises(WebError) as failure:
            web.get(f"{server.url}/")
        assert failure.value.reason == f"http_{code}"
        assert failure.value.passing == (code in (429, 500, 503))


def test_a_server_says_how_long_it_wants_to_be_left_alone():
    with serving({"/": status(429, Retry_After="7")}) as server, Web(OPEN) as web:
        with pytest.raises(WebError) as failure:
            web.get(f"{server.url}/")
        assert failure.value.wait == 7


@pytest.mark.parametrize("answer", [silent(), dripping(), slow_header()], ids=["silent", "dripping", "slow header"])
def test_time_counts_for_the_whole_answer(answer):
    with serving({"/": answer}) as server:
        began = time.monotonic()
        assert reason(f"{server.url}/", WebConfig(seconds=0.5, allow_private=True)) == "timeout"
        assert time.monotonic() - began < 2


def test_too_much_and_too_little():
    small = WebConfig(seconds=5.0, max_bytes=100_000, allow_private=True)
    pages = {"/short": short(b"x" * 100), "/promised": body(b"x" * 100_001), "/fits": body(b"x" * 100_000)}
    with serving({**pages, "/endless": endless()}) as server, Web(small) as web:
        assert len(web.get(f"{server.url}/fits")) == 100_000
        assert reason(f"{server.url}/promised", small) == "too_large"
        assert reason(f"{server.url}/endless", small) == "too_large"
        assert reason(f"{server.url}/short", small) == "short_read"


def test_nobody_there():
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        assert reason(f"http://127.0.0.1:{taken.getsockname()[1]}/") == "no_connection"
    assert reason("http://no-such-host.invalid/") == "host_unknown"


def test_what_is_no_http():
    with serving({"/": lambda handler: handler.wfile.write(b"220 mail.example ESMTP\r\n")}) as server:
        assert reason(f"{server.url}/", WebConfig(seconds=1.0, allow_private=True)) in ("no_connection", "timeout")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_a_certificate_is_checked_by_name(tmp_path, monkeypatch):
    """Trusted for `pinned.example`: good for that name at the address that was looked up, and for no other name."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=pinned.example -addext subjectAltName=DNS:pinned.example"
    )
    subprocess.run(["openssl", *words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setattr(Web, "_look_up", lambda *_: ["127.0.0.1"])
    with serving({"/": body(b"safe")}, context) as server:
        assert reason(f"https://pinned.example:{server.server_port}/") == "certificate"  # nobody has vouched for it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Web(OPEN) as web:
            assert web.get(f"https://pinned.example:{server.server_port}/") == b"safe"
        assert reason(f"https://other.example:{server.server_port}/") == "certificate"
    with serving({"/": body(b"plain")}) as server:
        assert reason(f"https://pinned.example:{server.server_port}/") == "no_connection"


def test_the_judge_sees_the_headers_before_the_contents_are_read():
    def judge(headers):
        raise WebError("refused", headers["x-said"])

    with serving({"/": endless(X_Said="no")}) as server, Web(OPEN) as web, pytest.raises(WebError) as failure:
        web.get(f"{server.url}/", judge)
    assert failure.value.detail == "no"


def test_origins():
    assert parse_place("HTTPS://Example.ORG:443/a?b").origin == "https://example.org"
    assert parse_place("http://[::1]:8080/").origin == "http://[::1]:8080"
    assert parse_place("http://bücher.example/ä").host == "xn--bcher-kva.example"
    assert parse_place("http://bücher.example/ä b").target == "/%C3%A4%20b"
