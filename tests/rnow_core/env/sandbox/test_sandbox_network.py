"""What containers reach: the internet and themselves, not this machine and not its neighbours."""

import asyncio
import contextlib
import http.server
import json
import threading

import pytest
from sandbox_project import call

from rnow_core.env.sandbox.inside.network_guard import BLOCKED
from rnow_core.env.sandbox.network import own_addresses

pytestmark = pytest.mark.container

PROBE = """
import errno, socket, struct

@tool(sandbox=True)
def connect(host: str, port: int) -> str:
    "Open a TCP connection."
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "connected"

@tool(sandbox=True)
def route(host: str, port: int = 9) -> str:
    "Whether there is a route to an address; nothing is sent."
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            probe.connect((host, port))
        except OSError as error:
            return errno.errorcode[error.errno]
    return "route"

@tool(sandbox=True)
def surroundings() -> list:
    "Gateways and resolvers."
    rows = [line.split() for line in open("/proc/net/route").readlines()[1:]]
    gateways = [socket.inet_ntoa(struct.pack("=I", int(row[2], 16))) for row in rows if int(row[2], 16)]
    words = [line.split() for line in open("/etc/resolv.conf")]
    return [gateways, [word[1] for word in words if word and word[0] == "nameserver"]]
"""
CLOSED = {"ENETUNREACH", "EHOSTUNREACH"}


@contextlib.contextmanager
def host_service():
    """An HTTP server on every address of this machine; its port."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


async def connections(project, addresses, port, **how):
    async with project.sandboxes(**how) as sandboxes:
        sandbox = await sandboxes.open(project.spec(PROBE, network=True))
        return [(await call(sandbox, "connect", host=host, port=port)).text for host in addresses]


def test_the_machine_is_reachable_only_when_asked_for(project):
    mine = [network.partition("/")[0] for network in own_addresses()]
    assert mine
    with host_service() as port:
        opened = asyncio.run(connections(project, mine, port, block_private=False))
        closed = asyncio.run(connections(project, mine, port))
    assert "connected" in opened
    assert set(closed) <= CLOSED


def test_private_addresses_are_closed_and_the_internet_and_names_are_not(project):
    private = [network.partition("/")[0].rsplit(".", 1)[0] + ".7" for network in BLOCKED[1:]]
    closed = [
        *private,
        "169.254.169.254",
        "255.255.255.255",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "2606:4700::1111",
    ]

    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(PROBE, network=True))
            gateways, resolvers = json.loads((await call(sandbox, "surroundings")).text)
            routes = {
                host: (await call(sandbox, "route", host=host)).text
                for host in (*closed, *gateways, "8.8.8.8", "127.0.0.1", "::1")
            }
            names = [
                (await call(sandbox, "route", host=host, port=53)).text
                for host in resolvers
                if ":" not in host
            ]
            return gateways, routes, names

    gateways, routes, names = asyncio.run(scenario())
    assert gateways
    assert {host: routes[host] for host in (*closed, *gateways) if routes[host] == "route"} == {}
    assert [routes[host] for host in ("8.8.8.8", "127.0.0.1")] == ["route"] * 2
    # Some engines give containers no IPv6 at all, not even their own.
    assert routes["::1"] in ("route", "EADDRNOTAVAIL")
    assert set(names) == {"route"}


@pytest.mark.parametrize("how", ["config", "tool"])
def test_a_closed_network_has_no_way_out(project, how):
    async def scenario():
        config = {"network": "none"} if how == "config" else {}
        async with project.sandboxes(**config) as sandboxes:
            sandbox = await sandboxes.open(project.spec(PROBE, network=how == "config"))
            return [
                (await call(sandbox, "route", host=host)).text
                for host in ("8.8.8.8", "10.0.0.1", "127.0.0.1")
            ]

    assert asyncio.run(scenario()) == ["ENETUNREACH", "ENETUNREACH", "route"]
