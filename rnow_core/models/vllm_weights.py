"""Whole models on a vLLM server: the weights of each version are loaded over those of the last.

A server has one set of them, so nothing may run while they change: requests in flight are answered first, and new
ones wait. A server that was restarted has the weights it was started with again, and answers all the same. So the
weights carry a label that only the server process knows in which they were loaded, and an answer counts only if the
server still has that label afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rnow_core.errors import RunFailed
from rnow_core.models.published import check_published, write_tied_head
from rnow_core.models.vllm_http import ServerError, TryAgain, VLLMClient
from rnow_core.models.vllm_versions import DEVELOPMENT, LABEL, Served, T, folder_of
from rnow_core.types import AdapterVersion

LABELLED, RPC, RESET = "/weight_info", "/collective_rpc", "/reset_prefix_cache"
ATTEMPTS = 5
"""How often one request, or one load, may meet a server that lost its weights: more than it is restarted."""


class ServedWeights:
    """The versions of one student on one server; `current` is what new requests use.

    `base` is the server's name for its model, whatever weights that has. `packed_head` is for servers on the CPU,
    see `write_tied_head`. The server must be the only one behind its address.
    """

    def __init__(self, client: VLLMClient, base: str, *, packed_head: bool = False) -> None:
        self._client, self._base, self._packed_head = client, base, packed_head
        self._gate = asyncio.Lock()
        self._failure: RunFailed | None = None
        self.current = Served(base, base)

    async def run(self, ask: Callable[[Served], Awaitable[T]]) -> T:
        """What `ask` returns for the current version; asked again when the server lost its weights meanwhile.

        Raises:
            RunFailed: the weights of the server are not whole, or are replaced again and again.
        """
        for _ in range(ATTEMPTS):
            with ExitStack() as stack:
                async with self._gate:
                    self._check_whole()
                    served = stack.enter_context(self.current.request())
                done = await ask(served)
                if served.path is None or await self._label() == served.salt:
                    return done
            await self.restore(served)
        raise self._unstable()

    async def switch(self, version: AdapterVersion) -> None:
        """Wait for the requests in flight, load `version` over the current weights and make it current.

        Raises:
            RunFailed: the folder is not whole, and the current version stays; or the server failed to load it, and
                refuses to sample from now on.
        """
        path = folder_of(version, self.current)
        model = check_published(path)
        if self._packed_head:
            write_tied_head(path, model)
        async with self._gate:
            self._check_whole()
            await self.current.idle.wait()
            self.current = await self._load(version.name, path)

    async def restore(self, lost: Served) -> None:
        """Load the current version again if it is `lost`, as it is after a restart of the server."""
        async with self._gate:
            if lost is self.current and lost.path is not None:
                self._check_whole()
                await lost.idle.wait()
                self.current = await self._load(lost.name, lost.path)

    def ask_for(self, name: str) -> None:
        """Call the server's model `name`."""
        self._base = name
        if self.current.path is None:
            self.current = Served(name, name)

    async def close(self) -> None:
        """Nothing waits here."""

    async def _load(self, name: str, path: Path) -> Served:
        """Label (the version's salt) first, weights second: the label after both proves one process got both."""
        for _ in range(ATTEMPTS):
            served = Served(name, self._base, path)
            await self._set_label(served.salt)
            await self._reload(served)
            await self._client.post(RESET, {}, _emptied)
            if await self._label() == served.salt:
                return served
        raise self._unstable()

    async def _reload(self, served: Served) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(served.path)}}
        try:
            await self._client.post(RPC, body, str, retry_5xx=False)
        except ServerError as error:
            self._failure = ServerError(
                f"the weights of {served.name} in {served.path} were not loaded, and the server's own are no longer "
                f"whole. {error.message}",
                "the folder must be readable on the server's machine; restart the server if it is not rnow's, then "
                "continue with: rnow run --resume",
                error.status,
            )
            raise self._failure from error

    async def _set_label(self, label: str) -> None:
        try:
            await self._client.post(LABEL, {"new_version": label}, str)
        except ServerError as error:
            if error.status != 404:
                raise
            raise ServerError(
                f"{self._client.endpoint} cannot load weights while it runs. {error.message}",
                DEVELOPMENT,
                404,
            ) from error

    async def _label(self) -> str:
        return str((await self._client.get(LABELLED))["weight_version"])

    def _check_whole(self) -> None:
        if self._failure is not None:
            raise RunFailed(self._failure.message, self._failure.hint) from self._failure

    def _unstable(self) -> RunFailed:
        return RunFailed(
            f"{self._client.endpoint} lost the weights that were loaded into it {ATTEMPTS} times",
            "look into its log for restarts; no other run may use the server meanwhile",
        )


def _emptied(answer: Any) -> None:
    if not answer["success"]:
        raise TryAgain("the prefix cache is in use")
