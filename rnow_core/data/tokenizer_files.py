"""Finds and reads the tokenizer files of a model: in a folder, or from the Hugging Face hub and its cache."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rnow_core.data.hub import quiet_hub
from rnow_core.errors import EnvironmentMissing, RnowError

_PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class TokenizerFiles:
    """What a model's folder says about text: tokenizer, templates by name, named special tokens, eos ids.

    `response_template` is the model's own description of its replies, where it ships one.
    """

    source: str
    tokenizer: Tokenizer
    templates: Mapping[str, str]
    special_tokens: Mapping[str, str]
    generation_eos: tuple[int, ...]
    response_template: Any = None


def read_tokenizer_files(source: str | Path) -> TokenizerFiles:
    """Read them for a folder or a hub id.

    Raises RnowError when something is missing or broken, EnvironmentMissing when the hub cannot be reached.
    """
    folder = _folder(str(source))
    config = _json(folder / "tokenizer_config.json")
    tokens = _named_tokens(folder, config)
    try:
        templates = _templates(folder, config)
    except UnicodeDecodeError as error:
        raise RnowError(f"a chat template in {source} is not UTF-8: {error}") from error
    return TokenizerFiles(
        source=str(source),
        tokenizer=_tokenizer(folder, str(source), config, tokens),
        templates=templates,
        special_tokens=tokens,
        generation_eos=_generation_eos(folder),
        response_template=config.get("response_template"),
    )


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise RnowError(f"{source} is a file, expected a model's folder or a Hugging Face id")
    if not _HUB_ID.fullmatch(source):
        hint = "give a folder that exists, or a Hugging Face id such as Qwen/Qwen3-0.6B"
        raise RnowError(f"there is no model folder {source}", hint)
    return _download(source)


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    quiet_hub()
    try:
        return Path(snapshot_download(repo, allow_patterns=list(_PATTERNS)))
    except GatedRepoError as error:
        hint = f"accept its licence at https://huggingface.co/{repo}, then set HF_TOKEN"
        raise EnvironmentMissing(f"{repo} is gated on the Hugging Face hub", hint) from error
    except RepositoryNotFoundError as error:
        hint = "check the id; for a folder write ./ in front; for a private model set HF_TOKEN"
        raise RnowError(
            f"there is no folder {repo}, and no such model on the Hugging Face hub", hint
        ) from error
    except (OSError, ValueError) as error:
        hint = "give a local folder as path, or download it once where there is a connection"
        reason = str(error).strip().partition("\n")[0]
        message = (
            f"{repo} is not in the local cache and cannot be fetched from the Hugging Face hub: {reason}"
        )
        raise EnvironmentMissing(message, hint) from error


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise RnowError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise RnowError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _named_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The text of bos_token, eos_token, ...; special_tokens_map.json counts if the config lists no tokens."""
    given = {**config}
    if "added_tokens_decoder" not in config:
        given.update(_json(folder / "special_tokens_map.json"))
    tokens = {name: given[name] for name in _NAMED_TOKENS if given.get(name) is not None}
    return {
        name: token["content"] if isinstance(token, dict) else str(token) for name, token in tokens.items()
    }


def _tokenizer(folder: Path, source: str, config: Mapping[str, Any], named: Mapping[str, str]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        hint = "save the model's fast tokenizer there (tokenizer.save_pretrained writes the file)"
        raise RnowError(f"{source} has no tokenizer.json", hint)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a broken file
        raise RnowError(f"{path} is not a tokenizer file: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _add_tokens(tokenizer, config, named)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Tokens that only tokenizer_config.json knows, in the order of their ids, then missing named ones."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    tokens = [AddedToken(t["content"], **{flag: t[flag] for flag in flags if flag in t}) for _, t in listed]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    known |= {token.content for token in tokens}
    missing = dict.fromkeys(text for text in (*named.values(), *_extra_tokens(config)) if text not in known)
    tokenizer.add_tokens(tokens + [AddedToken(text, special=True) for text in missing])


def _extra_tokens(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role of their own; the second key is the older spelling."""
    given = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = given.values() if isinstance(given, dict) else given
    return [token["content"] if isinstance(token, dict) else token for token in extra]


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name. Files win over the config; a single template is called `default`."""
    templates = {
        path.stem: path.read_text("utf-8") for path in folder.glob("additional_chat_templates/*.jinja")
    }
    single = folder / "chat_template.jinja"
    if single.is_file():
        templates["default"] = single.read_text("utf-8")
    if templates:
        return templates
    given = config.get("chat_template")
    if isinstance(given, list):
        return {entry["name"]: entry["template"] for entry in given}
    return {"default": given} if isinstance(given, str) else {}


def _generation_eos(folder: Path) -> tuple[int, ...]:
    """The eos ids of generation_config.json: the only thing of that file that rnow uses."""
    given = _json(folder / "generation_config.json").get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    return tuple(item for item in ids if isinstance(item, int))
