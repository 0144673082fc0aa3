"""`rnow generate --show`: rows of given conversations as `sft` would train on them: ids, mask and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rnow_core.config.load import LoadedConfig, load_config
from rnow_core.config.schema import Config
from rnow_core.config.source import Source
from rnow_core.config.stages import in_stages
from rnow_core.data.conversations import Conversations
from rnow_core.data.renderer import Renderer
from rnow_core.data.rows import load_prompts
from rnow_core.env.tool_types import ToolInfo, tools_of
from rnow_core.errors import Finding, FindingsError, UsageError
from rnow_core.preflight.check import CONFIG_FILE, context_window_of
from rnow_core.preflight.conversations import check_conversations
from rnow_core.preflight.models import read_model
from rnow_core.preflight.report import Findings, presented
from rnow_core.types import Prompt

OF_THE_RUN = ("RN304", "RN401", "RN410", "RN411", "RN412")
"""Findings about weights, packages and the machine: they say nothing about how a row reads."""


@dataclass(frozen=True)
class ShowRequest:
    """The first `count` rows of a file. `tools`: its folder is the project where this one has no config.yml, None = no
    such file. `student`: a model's folder or hub id, None = the config's.
    """

    file: Path
    count: int
    tools: Path | None = None
    student: str | None = None


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as it is trained. Per token T: its id, whether it is trained, whether it is a special token, and its piece
    of text, empty where a character goes on in the next token. `number` counts rows from 1; `tools` are those that the
    student is shown.
    """

    number: int
    file: str
    line: int
    turns: int
    tools: tuple[str, ...]
    ids_T: Sequence[int]
    mask_T: Sequence[bool]
    special_T: Sequence[bool]
    pieces_T: Sequence[str]


@dataclass(frozen=True)
class Shown:
    """The rows that `sft` would take, of `total` in the file, and what there is to say about those and the others."""

    student: str
    train_on: str
    total: int
    rows: list[ShownRow]
    findings: list[Finding]


def show_rows(request: ShowRequest) -> Shown:
    """Render the first rows of a file exactly as a run of `sft` does, with the project's student, tools and settings.

    Rows with an error are left out, and the error is in `findings`.

    Raises:
        UsageError: there is no such file, or nothing says who the student is.
        FindingsError: the file, config.yml, tools.py or the student cannot be read.
    """
    folder, loaded = _project(request)
    everything = _rows(request.file)
    rows = list(islice(everything, request.count))
    found = Findings(loaded)
    config = loaded.config
    student = read_model(config.model.path, folder, "model.path", found)
    window = None
    if student.facts:
        window = context_window_of(config, student.facts)
    _, project = check_conversations(folder, loaded, student, window, rows, [], found)
    findings = [item for item in presented(found.items, folder) if item.code not in OF_THE_RUN]
    places = {(row.file, row.line) for row in rows}
    errors = [item for item in findings if item.severity == "error"]
    elsewhere = [item for item in errors if (item.file, item.line) not in places]
    if elsewhere or project is None or project.conversations is None:
        raise FindingsError(errors)
    wrong = {(item.file, item.line) for item in errors}
    shown = [
        _shown(row, project.conversations, project.renderer, project.tools)
        for row in rows
        if (row.file, row.line) not in wrong
    ]
    return Shown(config.model.path, config.trainer.train_on, len(everything), shown, findings)


def _rows(file: Path) -> list[Prompt]:
    if not file.is_file():
        hint = "rnow generate INPUT writes it; -o FILE names another one"
        raise UsageError(f"there is no file {file} whose rows could be shown", hint)
    return load_prompts([file], dataset_type="sft", need_rewards=False)


def _project(request: ShowRequest) -> tuple[Path, LoadedConfig]:
    """The project's folder and its config, or its stage of `sft`, with the student that was asked for."""
    folders = [Path(), *([request.tools.parent] if request.tools else [])]
    folder = next((item for item in folders if (item / CONFIG_FILE).is_file()), None)
    if folder is None:
        if request.student is None:
            where = " or ".join(dict.fromkeys(str(item.absolute()) for item in folders))
            hint = "name one: --student Qwen/Qwen3-0.6B, or go to the project's folder"
            raise UsageError(f"no student: there is no {CONFIG_FILE} in {where}", hint)
        folder = folders[-1]
        config = Config.model_validate({"dataset_type": "sft", "model": {"path": _path(request.student)}})
        loaded = LoadedConfig(config, folder / CONFIG_FILE, (), (), Source(CONFIG_FILE, {}, {}))
    else:
        loaded = load_config(folder / CONFIG_FILE)
    stages = in_stages(loaded) if loaded.config.stages else []
    loaded = next((stage for stage in stages if stage.config.dataset_type == "sft"), loaded)
    config = loaded.config.model_copy(update={"dataset_type": "sft"})
    source = loaded.source
    if request.student is not None:
        model = config.model.model_copy(update={"path": _path(request.student)})
        config = config.model_copy(update={"model": model})
        source = replace(source, overridden=source.overridden | {("model", "path")})
    return folder.absolute(), replace(loaded, config=config, source=source)


def _path(student: str) -> str:
    """A folder of the command line as an absolute path, a hub id as it is."""
    folder = Path(student).expanduser()
    is_folder = folder.exists() or student.startswith((".", "/", "~"))
    return str(folder.absolute()) if is_folder else student


def _shown(
    row: Prompt, conversations: Conversations, renderer: Renderer, tools: Sequence[ToolInfo]
) -> ShownRow:
    trained = conversations.tokenize(row)
    return ShownRow(
        row.index + 1,
        row.file,
        row.line,
        sum(message["role"] == "assistant" for message in row.messages),
        tuple(info.name for info in tools_of(row, tools)),
        trained.ids_T,
        trained.mask_T,
        [token in renderer.special_ids for token in trained.ids_T],
        renderer.pieces(trained.ids_T),
    )
