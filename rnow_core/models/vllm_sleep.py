"""Sleep and wake of a vLLM server: its weights wait in main memory while another uses the GPU.

Level 1 only: level 2 throws base weights and adapters away. The routes are those of vLLM's development mode, which
a managed server has on its private socket.
"""

from __future__ import annotations

from rnow_core.models.vllm_http import VLLMClient


class Sleeper:
    """Puts one server to sleep and wakes it. The caller sees to it that no request is running.

    The server is asked each time instead of remembered: one that died and was restarted is awake.
    """

    def __init__(self, client: VLLMClient) -> None:
        self._client = client

    async def sleep(self) -> None:
        """Move the weights to main memory and drop the cache. RunFailed when the server cannot."""
        if not await self.asleep():
            await self._client.post("/sleep?level=1", {}, str, retry_5xx=False)

    async def wake(self) -> None:
        """Bring the weights back; does nothing when the server is awake. RunFailed when the server cannot."""
        if await self.asleep():
            await self._client.post("/wake_up", {}, str, retry_5xx=False)

    async def asleep(self) -> bool:
        """What the server says."""
        return bool((await self._client.get("/is_sleeping"))["is_sleeping"])
