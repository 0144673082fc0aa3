"""Closes private addresses in a network namespace: what a helper container runs.

It needs CAP_NET_ADMIN in the namespace and nothing else: the standard library of Python 3.8, and raw netlink, since
images rarely have `ip` or `nft`. Policy rules are used instead of routes or a packet filter: they come before every
route, cannot be undone without CAP_NET_ADMIN, and can tell the resolver's port 53 from the rest of its machine.

IPv4, in this order: loopback and the namespace's own addresses as before; port 53 of the resolvers in
/etc/resolv.conf; nothing else to the gateway (ARP must still find it, so only the protocols are refused that a
process without CAP_NET_RAW can speak); nothing to BLOCKED and the addresses given as arguments; the rest as before.
IPv6: loopback only, since private IPv4 addresses hide in several of its ranges.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from pathlib import Path

BLOCKED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
_NEW_RULE, _DELETE_RULE, _ERROR = 32, 33, 2
_REQUEST, _ACK, _EXCLUSIVE, _CREATE = 1, 4, 0x200, 0x400
_DESTINATION, _PRIORITY, _TABLE, _PROTOCOL, _PORTS = 1, 6, 15, 22, 24
_LOOK_UP, _UNREACHABLE = 1, 7
_LOCAL, _MAIN = 255, 254
_ICMP, _TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 1, 6, 17, 33, 132, 136
_PROBES = ("169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1")


def local_addresses(fib_trie: str) -> list[str]:
    """The IPv4 addresses that /proc/net/fib_trie calls local, without 127.0.0.0/8."""
    found, last = [], ""
    for line in fib_trie.splitlines():
        word = line.split()
        if line.strip().startswith("|--"):
            last = word[1]
        elif line.strip().startswith("/32 host LOCAL") and not last.startswith("127.") and last not in found:
            found.append(last)
    return found


def _gateways(route_table: str) -> list[str]:
    """Next hops in /proc/net/route, which has addresses as little-endian hexadecimal numbers."""
    rows = [line.split() for line in route_table.splitlines()[1:]]
    hops = sorted({row[2] for row in rows if len(row) > 2 and row[2] != "00000000"})
    return [socket.inet_ntoa(struct.pack("=I", int(hop, 16))) for hop in hops]


def _resolvers(resolv_conf: str) -> list[str]:
    words = [line.split() for line in resolv_conf.splitlines()]
    found = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return [address for address in found if ":" not in address]


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


class _Rules:
    """Policy rules of one address family, added in the order in which they will be tried."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._netlink.bind((0, 0))
        self._priority = 0

    def add(self, destination: str, action: int, table: int = 0, protocol: int = 0, port: int = 0) -> None:
        """One rule. destination: "a.b.c.d/n", or "" for every address; protocol and port 0: any."""
        self._priority += 1
        self._send(
            _NEW_RULE, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, destination, action, table, protocol, port
        )

    def forget_first(self) -> None:
        """Remove the kernel's own rule 0, which looks into the local table before every other rule."""
        self._priority = 0
        self._send(_DELETE_RULE, _REQUEST | _ACK, "", _LOOK_UP, _LOCAL, 0, 0)

    def _send(
        self, kind: int, flags: int, destination: str, action: int, table: int, protocol: int, port: int
    ) -> None:
        address, _, length = destination.partition("/")
        body = struct.pack("=BBBBBBBBI", self._family, int(length or 0), 0, 0, table, 0, 0, action, 0)
        body += _attribute(_PRIORITY, struct.pack("=I", self._priority))
        if length not in ("", "0"):
            body += _attribute(_DESTINATION, socket.inet_pton(self._family, address))
        if table:
            body += _attribute(_TABLE, struct.pack("=I", table))
        if protocol:
            body += _attribute(_PROTOCOL, struct.pack("=B", protocol))
        if port:
            body += _attribute(_PORTS, struct.pack("=HH", port, port))
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        reply = self._netlink.recv(65536)
        code = struct.unpack("=i", reply[16:20])[0] if struct.unpack("=H", reply[4:6])[0] == _ERROR else 0
        if code:
            raise OSError(-code, os.strerror(-code))


def _close_ipv4(blocked: list[str]) -> None:
    own = local_addresses(Path("/proc/net/fib_trie").read_text())
    gateways = _gateways(Path("/proc/net/route").read_text())
    resolvers = _resolvers(Path("/etc/resolv.conf").read_text())
    rules = _Rules(socket.AF_INET)
    for network in ["127.0.0.0/8", *(f"{address}/32" for address in own)]:
        rules.add(network, _LOOK_UP, _LOCAL)
    for address in resolvers:
        for protocol in (_UDP, _TCP):
            rules.add(address + "/32", _LOOK_UP, _MAIN, protocol, 53)
    for address in gateways:
        for protocol in (_ICMP, _TCP, _UDP, _DCCP, _SCTP, _UDP_LITE):
            rules.add(address + "/32", _UNREACHABLE, 0, protocol)
        rules.add(address + "/32", _LOOK_UP, _MAIN)
    for network in blocked:
        rules.add(network, _UNREACHABLE)
    rules.add("", _LOOK_UP, _LOCAL)
    rules.forget_first()
    for address in [*_PROBES, *gateways]:
        _require_closed(address)


def _close_ipv6() -> None:
    rules = _Rules(socket.AF_INET6)
    rules.add("::1/128", _LOOK_UP, _LOCAL)
    rules.add("", _UNREACHABLE)
    rules.forget_first()


def _require_closed(address: str) -> None:
    """Connecting a UDP socket asks for a route and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return
            raise
    raise OSError(errno.EPERM, "a route to " + address + " is still there")


def main(arguments: list[str]) -> int:
    """Close BLOCKED and the given networks; 0 when that is done and was checked, else 1 with the reason."""
    try:
        _close_ipv4([*BLOCKED, *arguments])
        if Path("/proc/net/if_inet6").exists():
            _close_ipv6()
    except OSError as error:
        os.write(2, f"network guard: {error}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
