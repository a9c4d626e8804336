"""Which addresses the local Replicate may connect to, and a transport that connects to no other.

A URL that a caller chose (an input, a webhook) must not reach what only this machine can reach. Checking a name and
then connecting to the name leaves a gap: the second look-up may answer differently. So a name is looked up once, every
answer is checked, and the connection is made to a checked address; TLS still verifies the certificate for the name.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from harness.errors import AddressRefused, UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[IPNetwork, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))

_PORTS = {"http": 80, "https": 443}
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is assigned for the public internet (RFC 4291, IANA)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_6TO4_ANYCAST = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526: no longer routed
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, newer than ipaddress's tables
_ISATAP = (0x00005EFE, 0x02005EFE)  # upper half of the interface identifier, RFC 5214


def effective_address(address: str) -> IPAddress:
    """The address that a packet to `address` ends at: the IPv4 address inside a mapped, 6to4, NAT64 or ISATAP one."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    low = int(parsed) & 0xFFFFFFFF
    if parsed in _NAT64 or (int(parsed) >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(low)
    return parsed.ipv4_mapped or parsed.sixtofour or parsed


def is_public(address: IPAddress) -> bool:
    """True for a unicast address of the public internet; Teredo addresses are refused with the special-purpose ones."""
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address not in _6TO4_ANYCAST
    return address in _GLOBAL_UNICAST and address not in _DOCUMENTATION


@dataclass(frozen=True)
class AddressRules:
    """Public addresses, and the networks in `allowed`."""

    allowed: tuple[IPNetwork, ...] = ()

    @classmethod
    def for_server(cls, host: str, allowed: Iterable[str] = ()) -> AddressRules:
        """Rules of a server bound to `host`: `allowed` CIDRs, and loopback when only this machine can call the server.

        Raises UsageError for a network that is not one.
        """
        try:
            networks = tuple(ipaddress.ip_network(network) for network in allowed)
        except ValueError as error:
            raise UsageError(f"The allowed network is not one: {error}; write it as 10.0.0.0/8 or fd00::/8.") from None
        return cls(networks + LOOPBACK if is_loopback(host) else networks)

    def permit(self, address: str) -> bool:
        """Whether a connection to `address` (an IP address, not a name) may be made."""
        effective = effective_address(address)
        return is_public(effective) or any(effective in network for network in self.allowed)

    async def resolve(self, host: str, port: int) -> list[str]:
        """Look `host` up once and return its addresses, in the system's order of preference.

        Raises AddressRefused when any of them is not permitted, and httpx.ConnectError when there is none.
        """
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"The name {host!r} cannot be looked up: {error}.") from error
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        refused = [address for address in addresses if not self.permit(address)]
        if refused:
            raise AddressRefused(
                f"{host!r} is at {refused[0]}, which is not a public address; allow its network in the settings "
                "if the local Replicate should reach it."
            )
        return addresses


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be called from its own machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reading all the certificates takes some 20 ms; honours SSL_CERT_FILE


class CheckedTransport(httpx.AsyncBaseTransport):
    """An HTTP transport that connects only to addresses that its rules permit.

    The URL's host is replaced by the checked address; the Host header and the name that TLS verifies stay. Connections
    are not kept: one made for one name must not serve another name at the same address.
    """

    def __init__(self, rules: AddressRules, *, verify: ssl.SSLContext | None = None) -> None:
        self._rules = rules
        self._inner = httpx.AsyncHTTPTransport(
            verify=verify or _tls(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` to the first of its host's addresses that accepts a connection; raises AddressRefused."""
        url = request.url
        port = url.port or _PORTS.get(url.scheme)
        if not port or not url.host:
            raise httpx.UnsupportedProtocol("The URL must be http:// or https:// with a host.", request=request)
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        error = httpx.ConnectError(f"The name {url.host!r} has no address.")
        for address in await self._rules.resolve(url.host, port):
            request.url = url.copy_with(host=address)
            try:
                return await self._inner.handle_async_request(request)
            except httpx.ConnectError as refused:
                error = refused
            finally:
                request.url = url  # relative redirects are relative to the name
        raise error

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()
