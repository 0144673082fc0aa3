"""Which adapter versions a vLLM server has loaded, and when each may go.

Every version is loaded under its own name from its own folder, never in place: a name or path that is used twice
would let the prefix cache answer with the old adapter's keys. The name holds a random part, so that two runs on one
server do not meet. A version is unloaded after its last request, and a
third one is loaded only when the oldest is gone, so that `--max-loras 2` holds both.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

from rnow_core.models.vllm_http import ServerError, VLLMClient
from rnow_core.models.vllm_versions import Served, T, folder_of
from rnow_core.types import AdapterVersion

LOAD, UNLOAD, MODELS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models"
CLOSE_SECONDS = 10.0


class ServedAdapters:
    """The versions of one student on one server; `current` is what new requests use."""

    def __init__(self, client: VLLMClient, base: str) -> None:
        self._client = client
        self._suffix = secrets.token_hex(4)
        self._loading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.current = Served(base, base)

    async def run(self, ask: Callable[[Served], Awaitable[T]]) -> T:
        """What `ask` returns for the version that is current now, once more when the server had lost it."""
        served = self.current
        with served.request():
            try:
                return await ask(served)
            except ServerError as error:
                if error.status != 404 or served.path is None:
                    raise
                await self.restore(served)
                return await ask(served)

    async def switch(self, version: AdapterVersion) -> None:
        """Load `version` and make it current; requests in flight end with the version they began with.

        Raises:
            RunFailed: the server cannot load it. The current version stays.
        """
        path = folder_of(version, self.current)
        await asyncio.gather(*self._retiring)
        new = Served(version.name, f"{version.name}-{self._suffix}", path)
        async with self._loading:
            await self._load(new)
        old, self.current = self.current, new
        task = asyncio.create_task(self._retire(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def restore(self, served: Served) -> None:
        """Load a version again that the server has lost, as one that was restarted has."""
        if served.path is None:
            return
        async with self._loading:
            known = {model["id"] for model in (await self._client.get(MODELS))["data"]}
            if served.model not in known:
                await self._load(served)

    def ask_for(self, name: str) -> None:
        """Call the server's base model `name`; an adapter that is in use keeps its own name."""
        if self.current.path is None:
            self.current = Served(name, name)

    async def close(self) -> None:
        """Stop waiting for requests of old versions; leave nothing behind on a server that goes on."""
        left = [task for task in self._retiring if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self.current.path is not None and not self._client.restarts:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._unload(self.current.model), CLOSE_SECONDS)

    async def _load(self, served: Served) -> None:
        body = {"lora_name": served.model, "lora_path": str(served.path)}
        try:
            try:
                await self._client.post(LOAD, body, str, retry_5xx=False)
            except ServerError as error:
                if error.status != 400 or "already been loaded" not in error.message:
                    raise
                # the answer to an earlier attempt was lost
                await self._unload(served.model)
                await self._client.post(LOAD, body, str, retry_5xx=False)
        except ServerError as error:
            raise self._explained(served, error) from error

    async def _retire(self, served: Served) -> None:
        await served.idle.wait()
        if served.path is not None:
            await self._unload(served.model)

    async def _unload(self, name: str) -> None:
        with suppress(ServerError):  # a server that was restarted does not know the name any more
            await self._client.post(UNLOAD, {"lora_name": name}, str)

    def _explained(self, served: Served, error: ServerError) -> ServerError:
        hint = error.hint
        if error.status == 404 and "Not Found" in error.message and "No adapter" not in error.message:
            hint = "start the server with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        elif error.status is not None:
            hint = (
                "the folder must be whole, readable on the server's machine, and of a rank that its "
                "--max-lora-rank allows; then continue with: rnow run --resume"
            )
        message = f"adapter {served.name} in {served.path} was not loaded. {error.message}"
        return ServerError(message, hint, error.status)
