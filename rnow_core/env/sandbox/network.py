"""Closes private addresses to a container, before any tool runs in it.

A helper container of the same image joins its network namespace for a moment with CAP_NET_ADMIN, which the container
itself never has. That needs no root on the host and works the same for docker, podman and remote engines.
"""

from __future__ import annotations

from pathlib import Path

from rnow_core.env.sandbox.engine import Engine
from rnow_core.env.sandbox.inside import network_guard
from rnow_core.env.sandbox.recipe import Recipe, hardening, labels
from rnow_core.errors import EnvironmentMissing

_PROGRAM = Path(network_guard.__file__).read_text()
_FIB_TRIE = Path("/proc/net/fib_trie")


async def close_private_addresses(engine: Engine, recipe: Recipe, container: str) -> None:
    """Make the metadata service, private networks and this machine unreachable; EnvironmentMissing when that fails."""
    words = ["run", "--rm", "--pull=never", "--name", f"{container}-guard", *labels("guard", recipe.run)]
    words += [*hardening(), "--cap-add", "NET_ADMIN", "--user", "0", "--read-only", "--no-healthcheck"]
    words += ["--network", f"container:{container}", *engine.run_words, "--entrypoint", recipe.image.python]
    output = await engine.call(*words, recipe.image.id, "-I", "-S", "-c", _PROGRAM, *own_addresses())
    if output.code:
        message = f"private addresses cannot be closed to the sandbox: {output.reason}"
        hint = "set sandbox.network: none, or sandbox.network: open to let tools reach your network and this machine"
        raise EnvironmentMissing(message, hint)


def own_addresses() -> list[str]:
    """The IPv4 addresses of this machine as networks of one address: its services are not the tools' business."""
    if not _FIB_TRIE.exists():
        return []
    return [f"{address}/32" for address in network_guard.local_addresses(_FIB_TRIE.read_text())]
