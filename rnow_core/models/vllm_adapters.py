"""Which adapter versions a vLLM server has loaded, and when each may go.

Every version is loaded under its own name from its own folder, never in place: a name or path that is used twice
would let the prefix cache answer with the old adapter's keys. A version is unloaded after its last request, and a
third one is loaded only when the oldest is gone, so that `--max-loras 2` holds both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_http import ServerError, VLLMClient
from rnow_core.types import AdapterVersion

LOAD, UNLOAD, MODELS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models"


@dataclass(eq=False, slots=True)
class Served:
    """One version on the server, the base model (no path) among them, with its requests in flight."""

    name: str
    path: Path | None
    requests: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request for as long as it runs."""
        self.requests += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self.idle.set()


class ServedAdapters:
    """The versions of one student on one server; `current` is what new requests use."""

    def __init__(self, client: VLLMClient, base: str) -> None:
        self._client = client
        self._loading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.current = _served(base, None)

    async def switch(self, version: AdapterVersion) -> None:
        """Load `version` and make it current; requests in flight end with the version they began with.

        Raises:
            RunFailed: the server cannot load it. The current version stays.
        """
        if version.path is None:
            raise RunFailed(
                f"version {version.name!r} has no folder; a vLLM server needs one to load the adapter from"
            )
        if version.name == self.current.name:
            raise RunFailed(f"adapter {version.name!r} is in use already; every version needs its own name")
        await asyncio.gather(*self._retiring)
        new = _served(version.name, version.path.resolve())
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
            if served.name not in known:
                await self._load(served)

    async def close(self) -> None:
        """Stop waiting for requests of old versions."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _load(self, served: Served) -> None:
        body = {"lora_name": served.name, "lora_path": str(served.path)}
        try:
            await self._client.post(LOAD, body, str, retry_5xx=False)
        except ServerError as error:
            if error.status != 400 or "already been loaded" not in error.message:
                raise self._explained(served, error) from error
            # another run left the name behind, or the answer to an earlier attempt was lost
            await self._unload(served.name)
            await self._client.post(LOAD, body, str, retry_5xx=False)

    async def _retire(self, served: Served) -> None:
        await served.idle.wait()
        if served.path is not None:
            await self._unload(served.name)

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


def _served(name: str, path: Path | None) -> Served:
    served = Served(name, path)
    served.idle.set()
    return served
