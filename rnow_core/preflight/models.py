"""Can the models that the config names be loaded: folder, config.json, weights, tokenizer, chat template."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rnow_core.data.hub import quiet_hub
from rnow_core.data.renderer import Renderer
from rnow_core.data.tokenizer_files import read_tokenizer_files
from rnow_core.errors import Finding, FindingsError, RnowError
from rnow_core.preflight.base_models import declared_ends, template_hint
from rnow_core.preflight.model_facts import ModelFacts, read_config
from rnow_core.preflight.report import Findings
from rnow_core.preflight.weight_files import count_weights

MALFORMED = (RnowError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading somebody's tokenizer files may raise."""

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """What could be read of a model; None where it could not, which was then said.

    `ends`: the eos ids of config.json and generation_config.json. `untemplated`: the tokenizer of a model that has no
    renderer because it lacks a chat template, and only for that.
    """

    facts: ModelFacts | None
    renderer: Renderer | None
    ends: frozenset[int] = field(default_factory=frozenset)
    untemplated: Renderer | None = None


def read_model(
    path: str, project_dir: Path, key: str, found: Findings, *, need_template: bool = True
) -> ModelFiles:
    """Read a model without loading it; everything wrong with its folder goes to `found`.

    Args:
        path: as in config.yml: a folder (relative ones start from the project) or a Hugging Face id.
        project_dir: the project's folder.
        key: the config key that named the model (`teacher.path`).
        found: takes RN301 to RN304.
        need_template: False for a model that only reads what another one's chat template writes.
    """
    try:
        folder = local_folder(path, project_dir, key)
        config = config_file(path, project_dir, key)
    except FindingsError as error:
        found.extend(error.findings)
        return ModelFiles(None, None)
    facts = found.attempt(lambda: read_config(config, path, key))
    count = found.attempt(lambda: count_weights(folder, path, key)) if folder else None
    if facts is not None and count is not None:
        facts = replace(facts, parameters=count)
    renderer, untemplated = _load_renderer(str(folder or path), path, key, found, need_template)
    return ModelFiles(facts, renderer, declared_ends(config.parent), untemplated)


def config_file(path: str, project_dir: Path, key: str) -> Path:
    """The config.json of a folder, or of a hub id. FindingsError: RN301 or RN302, it is not to be had."""
    folder = local_folder(path, project_dir, key)
    return folder / "config.json" if folder else _from_hub(path, key)


def local_folder(path: str, project_dir: Path, key: str) -> Path | None:
    """The model folder that `path` names, or None when it has the form of a hub id.

    Raises:
        FindingsError: RN301, the folder is not there or holds no model.
    """
    folder = (project_dir / Path(path).expanduser()).resolve()
    if folder.is_dir():
        _require_config(folder, path, key)
        return folder
    if folder.exists():
        hint = "name the folder that holds config.json"
        raise _no_folder(key, f"'{path}' is a file, expected the folder of a model", hint)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        hint = "relative folders start from the project; a Hugging Face id looks like Qwen/Qwen3-0.6B"
        raise _no_folder(key, f"there is no folder '{path}' (looked for {folder})", hint)
    return None


def _require_config(folder: Path, path: str, key: str) -> None:
    if (folder / "config.json").exists():
        return
    if (folder / ADAPTER_FILES[0]).exists():
        hint = f"name the model that the adapter was trained on, and the adapter as {key.rpartition('.')[0]}.adapter"
        raise _no_folder(key, f"'{path}' holds an adapter, not a model", hint)
    hint = "name a folder that was written by save_pretrained, or a Hugging Face id"
    raise _no_folder(key, f"'{path}' is not the folder of a model: it has no config.json", hint)


def _no_folder(key: str, message: str, hint: str) -> FindingsError:
    return FindingsError([Finding("RN301", "error", message, hint, path=key)])


def _from_hub(path: str, key: str) -> Path:
    """config.json of a hub id, from the local cache or the network."""
    from huggingface_hub import hf_hub_download

    quiet_hub()
    try:
        return Path(hf_hub_download(path, "config.json"))
    except Exception as error:  # the hub library raises many kinds; each means: not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"there is no folder '{path}', and it cannot be read from the Hugging Face hub: {reason}"
        hint = (
            "check the name and the network, log in with `hf auth login` for a gated model, or name a folder"
        )
        raise FindingsError([Finding("RN302", "error", message, hint, path=key)]) from None


def _load_renderer(
    source: str, path: str, key: str, found: Findings, need_template: bool
) -> tuple[Renderer | None, Renderer | None]:
    """The tokenizer and chat template, or RN303 when they are missing or malformed; and `ModelFiles.untemplated`."""
    untemplated = None
    try:
        files = read_tokenizer_files(source)
        if "default" not in files.templates:
            untemplated = Renderer(replace(files, templates={"default": ""}))
            if not need_template:
                return untemplated, None
        return Renderer(files), None
    except MALFORMED as error:
        if isinstance(error, RnowError):
            hint = template_hint(key) if untemplated else error.hint
            found.add(Finding("RN303", "error", error.message, hint, path=key))
        else:
            message = f"the tokenizer files of '{path}' cannot be read: {type(error).__name__}: {error}"
            found.add(Finding("RN303", "error", message, "download or save the model again", path=key))
        return None, untemplated


def check_adapter(path: str, project_dir: Path) -> list[Finding]:
    """RN305: `model.adapter` is no folder of an adapter in PEFT format."""
    folder = (project_dir / Path(path).expanduser()).resolve()
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if folder.is_dir() and not missing:
        return []
    message = (
        f"'{path}' is not the folder of an adapter: it has no {' and no '.join(missing)}"
        if folder.is_dir()
        else f"there is no folder '{path}' (looked for {folder})"
    )
    hint = "name a folder in PEFT format, such as runs/NAME/checkpoints/step_000050"
    return [Finding("RN305", "error", message, hint, path="model.adapter")]
