"""The live view on a terminal: notes scroll above a table of the last steps and a progress line."""

from __future__ import annotations

from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rnow.display.lines import STEP_METRICS, Pace, StepRow, step_row
from rnow.display.run import NOTES, RESULTS, raw_notice
from rnow_core.track.events import Event

ROWS = 10
BAR_WIDTH = 30
STYLES = {"warning": "yellow", "eval": "cyan", "checkpoint": "dim", "check": "dim"}


class LiveDisplay:
    """Shows a run on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._rows: deque[StepRow] = deque(maxlen=ROWS)
        self._pace = Pace()
        self._total = 0
        self._notice = ""
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)

    def show(self, event: Event) -> None:
        """Add the event to the view."""
        if event.kind == "step":
            self._add_step(event)
        elif event.kind in NOTES or event.kind in RESULTS:
            self._say(event)

    def notice(self, text: str) -> None:
        """Show the text under the table at the next refresh: writing now could tear the view."""
        self._notice = text
        if not self._live.is_started:
            raw_notice(text)

    def close(self) -> None:
        """Draw the last state and give the cursor back."""
        self._live.stop()

    def _add_step(self, event: Event) -> None:
        self._rows.append(step_row(event))
        self._pace.add(event.fields["metrics"])

    def _say(self, event: Event) -> None:
        if event.kind == "run_finished":
            self._notice = ""
            self.close()
        elif event.kind == "run_started":
            self._total = int(event.fields["total_steps"])
            self._live.start()
        elif event.kind == "stage_started":
            self._total = int(event.fields["total_steps"])
            self._rows.clear()
            self._pace = Pace()
        describe = NOTES.get(event.kind) or RESULTS[event.kind]
        self._console.print(Text(describe(event), style=self._style(event)))

    def _style(self, event: Event) -> str:
        failed = event.kind == "check" and not event.fields["passed"]
        return "bold red" if failed else STYLES.get(event.kind, "")

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [self._table()] if self._rows else []
        parts.append(self._progress())
        if self._notice:
            parts.append(Text(self._notice, style="bold yellow"))
        return Group(*parts)

    def _table(self) -> Table:
        """The last steps; only the columns that have a figure."""
        heads = [head for head in STEP_METRICS if any(head in row.figures for row in self._rows)]
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for head in ["step", *heads]:
            table.add_column(head, justify="right")
        for row in self._rows:
            table.add_row(str(row.step), *(row.figures.get(head, "") for head in heads))
        return table

    def _progress(self) -> Table:
        done = self._rows[-1].step if self._rows else 0
        left = self._pace.left(self._total - done)
        text = f"{done}/{self._total}" + (f"  {left} left" if left and done < self._total else "")
        line = Table.grid(padding=(0, 2))
        line.add_row("", ProgressBar(total=self._total, completed=done, width=BAR_WIDTH), text)
        return line
