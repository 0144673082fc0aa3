"""The Hugging Face hub without its own notes on the terminal: what went wrong is in the error that is raised."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

TEXT_FILES = ("tokenizer*", "*token*.json", "chat_template*", "vocab.*", "merges.txt")
"""What a model's folder has beside its weights, for whoever reads text."""


def quiet_hub() -> None:
    """Keep the hub's retries and warnings off stderr; called when the package has been imported, which sets a level."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def text_files(model: str) -> Iterator[Path]:
    """The files of a model, a folder or a hub id, that say how it reads and writes text."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        quiet_hub()
        folder = Path(snapshot_download(model, allow_patterns=list(TEXT_FILES)))
    for pattern in TEXT_FILES:
        yield from (file for file in folder.glob(pattern) if file.is_file())
