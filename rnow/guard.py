"""However a command ends, there is an exit code and one message at most."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rnow.clash import stop_on_name_clash
from rnow.display import console
from rnow.display.failure import show_error
from rnow_core.errors import Interrupted, RnowError


def guarded(args: Sequence[str]) -> int:
    """Run `rnow ARGS` and return the exit code. No exception leaves this function."""
    as_json = "--json" in args
    console.prepare_streams()
    try:
        stop_on_name_clash()
        from rnow.cli import invoke

        return invoke(list(args))
    except KeyboardInterrupt:
        return show_error(Interrupted("stopped by the user"), as_json)
    except RnowError as error:
        return show_error(error, as_json)
    except Exception as error:
        return show_error(crash(error), as_json)
    finally:
        console.flush()


def crash(error: Exception, folder: Path | None = None) -> RnowError:
    """One clear line for an exception that nobody expected; the traceback goes into a file.

    The file lies in `folder` (a run's `logs/`) or, without one, among the temporary files. With RNOW_DEBUG=1
    the traceback is shown as well.
    """
    text = "".join(traceback.format_exception(error))
    if os.environ.get("RNOW_DEBUG") == "1":
        console.err(text.rstrip())
    path = _save(text, folder) or _save(text, None)
    said = str(error).strip().splitlines()
    detail = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    where = (
        f"The full traceback is in {path}."
        if path
        else "Run it again with RNOW_DEBUG=1 to see the traceback."
    )
    return RnowError(f"Unexpected error: {detail}", f"This is a defect in rnow or in code it called. {where}")


def _save(text: str, folder: Path | None) -> Path | None:
    """Write the traceback; None when that place cannot be written."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    with contextlib.suppress(OSError):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"rnow-error-{stamp}-", suffix=".log", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        return Path(name)
    return None
