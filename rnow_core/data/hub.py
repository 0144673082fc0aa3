"""The Hugging Face hub without its own notes on the terminal: what went wrong is in the error that is raised."""

from __future__ import annotations

import logging


def quiet_hub() -> None:
    """Keep the hub's retries and warnings off stderr; called when the package has been imported, which sets a level."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
