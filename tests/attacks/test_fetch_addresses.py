"""Input URLs that try to reach what only this machine can reach, or to wear the local Replicate out. Real sockets."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme

from harness.errors import AddressRefused, FetchFailed, UsageError
from harness.replicate.addresses import AddressRules, CheckedTransport
from harness.replicate.fetch import FetchLimits, fetch

LOOPBACK = AddressRules.for_server("127.0.0.1")
PUBLIC_ONLY = AddressRules()

Writer = asyncio.StreamWriter
Handler = Callable[[str, Writer], Awaitable[None]]


@asynccontextmanager
async def web(handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that passes each request's path to `handler`; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(head.split()[1].decode(), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, as it should
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def send(writer: Writer, status: str, headers: dict[str, str], body: bytes = b"") -> None:
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Connection: close",
        "",
        "",
    ]
    writer.write("\r\n".join(lines).encode() + body)


async def photo(_path: str, writer: Writer) -> None:
    send(writer, "200 OK", {"Content-Length": "5"}, b"photo")
    await writer.drain()


async def get(url: str, rules: AddressRules = LOOPBACK, limits: FetchLimits | None = None) -> bytes:
    into = io.BytesIO()
    assert await fetch(url, into, rules=rules, limits=limits) == into.tell()
    return into.getvalue()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "localhost",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "192.88.99.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[2002:7f00:1::1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2001:0:53aa:64c:0:0:80ff:fffe]",
        "[2001:4860:4860::5efe:10.0.0.1]",
        "[2001:4860:4860:0:200:5efe:10.0.0.1]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00::1]",
        "[ff02::1]",
        "[3fff::1]",
        "[2001:db8::1]",
    ],
)
def test_an_address_that_is_not_public_is_refused_before_any_connection(host: str) -> None:
    with pytest.raises(AddressRefused, match="not a public address"):
        asyncio.run(get(f"http://{host}:1/", PUBLIC_ONLY))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_permitted_also_when_embedded(address: str) -> None:
    assert PUBLIC_ONLY.permit(address)


def test_loopback_is_permitted_when_only_this_machine_can_call() -> None:
    async def scenario() -> bytes:
        async with web(photo) as port:
            return await get(f"http://127.0.0.1:{port}/photo.jpg")

    assert asyncio.run(scenario()) == b"photo"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_loopback_is_refused_once_others_can_call(host: str) -> None:
    assert not AddressRules.for_server(host).permit("127.0.0.1")


def test_listed_networks_are_permitted_and_no_others() -> None:
    rules = AddressRules.for_server("0.0.0.0", ["192.168.1.0/24"])
    assert rules.permit("192.168.1.9")
    assert rules.permit("::ffff:192.168.1.9")
    assert not rules.permit("192.168.2.9")
    with pytest.raises(UsageError, match="not one"):
        AddressRules.for_server("0.0.0.0", ["192.168.1.0/99"])


def test_a_name_that_changes_its_answer_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: permitted when checked, private when connected to."""
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    real = socket.getaddrinfo

    def changing(host: str | None, *rest: object, **named: object) -> object:
        return real(next(answers) if host == "rebind.test" else host, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    rules = AddressRules.for_server("0.0.0.0", ["127.0.0.2/32"])

    async def secret(_path: str, writer: Writer) -> None:
        send(writer, "200 OK", {"Content-Length": "6"}, b"secret")

    async def scenario() -> bytes:
        async with web(photo, host="127.0.0.2") as port:
            server = await asyncio.start_server(lambda r, w: secret("", w), "127.0.0.1", port)
            async with server:
                return await get(f"http://rebind.test:{port}/", rules)

    assert asyncio.run(scenario()) == b"photo"


def test_a_name_with_one_refused_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(*_args: object, **_named: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        asyncio.run(get("http://mixed.test/", PUBLIC_ONLY))


def test_a_redirect_to_a_private_address_is_refused() -> None:
    async def to_metadata(_path: str, writer: Writer) -> None:
        send(writer, "302 Found", {"Location": "http://169.254.169.254/latest/meta-data/", "Content-Length": "0"})

    async def scenario() -> None:
        async with web(to_metadata) as port:
            await get(f"http://127.0.0.1:{port}/")

    with pytest.raises(AddressRefused, match=r"169\.254\.169\.254"):
        asyncio.run(scenario())


@pytest.mark.parametrize("location", ["file:///etc/hostname", "gopher://127.0.0.1/", "http://user:pw@127.0.0.1/"])
def test_a_redirect_to_what_is_not_plain_http_is_refused(location: str) -> None:
    async def elsewhere(_path: str, writer: Writer) -> None:
        send(writer, "302 Found", {"Location": location, "Content-Length": "0"})

    async def scenario() -> None:
        async with web(elsewhere) as port:
            await get(f"http://127.0.0.1:{port}/")

    with pytest.raises(FetchFailed, match="must"):
        asyncio.run(scenario())


@pytest.mark.parametrize(("hops", "works"), [(5, True), (6, False)])
def test_redirects_are_followed_five_times(hops: int, works: bool) -> None:
    async def countdown(path: str, writer: Writer) -> None:
        left = int(path.strip("/"))
        if left:
            send(writer, "307 Temporary Redirect", {"Location": f"/{left - 1}", "Content-Length": "0"})
        else:
            await photo(path, writer)

    async def scenario() -> bytes:
        async with web(countdown) as port:
            return await get(f"http://127.0.0.1:{port}/{hops}")

    if works:
        assert asyncio.run(scenario()) == b"photo"
    else:
        with pytest.raises(FetchFailed, match="more than 5 times"):
            asyncio.run(scenario())


@pytest.mark.parametrize("announced", [True, False])
def test_an_endless_body_stops_at_the_byte_limit(announced: bool) -> None:
    async def endless(_path: str, writer: Writer) -> None:
        send(writer, "200 OK", {"Content-Length": str(10**12)} if announced else {})
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async def scenario() -> int:
        into = io.BytesIO()
        async with web(endless) as port:
            with pytest.raises(FetchFailed, match="larger than the limit of 1,000,000 bytes"):
                await fetch(f"http://127.0.0.1:{port}/", into, rules=LOOPBACK, limits=FetchLimits(max_bytes=1_000_000))
        return into.tell()

    assert asyncio.run(scenario()) <= 1_000_000


def test_a_slow_drip_stops_at_the_time_limit_though_every_read_is_quick() -> None:
    async def drip(_path: str, writer: Writer) -> None:
        send(writer, "200 OK", {})
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        async with web(drip) as port:
            await get(f"http://127.0.0.1:{port}/", limits=FetchLimits(total_s=0.3))

    with pytest.raises(FetchFailed, match=r"longer than 0\.3 s"):
        asyncio.run(scenario())


def test_a_compressed_answer_is_refused_rather_than_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))

    async def compressed(_path: str, writer: Writer) -> None:
        send(writer, "200 OK", {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}, bomb)

    async def scenario() -> None:
        async with web(compressed) as port:
            await get(f"http://127.0.0.1:{port}/")

    with pytest.raises(FetchFailed, match="compressed"):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a", "//example.org/a", "http://", "http://a b/", "http://0177.0.0.1/"],
)
def test_only_http_urls_with_a_host_are_fetched(url: str) -> None:
    with pytest.raises(FetchFailed):
        asyncio.run(get(url))


def test_an_error_page_is_not_an_input_and_the_message_keeps_the_urls_secret() -> None:
    async def missing(_path: str, writer: Writer) -> None:
        send(writer, "404 Not Found", {"Content-Length": "2"}, b"no")

    async def scenario() -> None:
        async with web(missing) as port:
            await get(f"http://127.0.0.1:{port}/?signature=secret")

    with pytest.raises(FetchFailed, match="answered 404") as caught:
        asyncio.run(scenario())
    assert "secret" not in str(caught.value)


def test_tls_verifies_the_name_though_the_connection_is_made_to_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def local(host: str | None, *rest: object, **named: object) -> object:
        return real("127.0.0.1" if str(host).endswith(".test") else host, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", local)
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("right.test").configure_cert(server)
    authority.configure_trust(client)

    async def status(name: str, port: int) -> int:
        async with httpx.AsyncClient(transport=CheckedTransport(LOOPBACK, verify=client)) as session:
            return (await session.get(f"https://{name}:{port}/")).status_code

    async def scenario() -> None:
        async with web(photo, tls=server) as port:
            assert await status("right.test", port) == 200
            with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
                await status("wrong.test", port)

    asyncio.run(scenario())
