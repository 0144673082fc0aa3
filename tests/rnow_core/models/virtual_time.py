"""An event loop whose time passes only while everybody waits: minutes of waiting in a moment, the same every time."""

import asyncio
import selectors


class _Jumps(selectors.SelectSelector):
    """Instead of waiting for the next timer, sets the clock to it."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        if timeout:
            self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self):
        return self._jumps.now


def run_virtual(main):
    """The result of `main(loop.time)`, a coroutine function."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop().time))
