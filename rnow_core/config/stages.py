"""`stages`: each overlay as a config of its own, where its keys stand, and what holds between stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rnow_core.config.problems import KeyPath, Problem
from rnow_core.config.schema import Config, merge
from rnow_core.config.source import Source

if TYPE_CHECKING:
    from rnow_core.config.load import LoadedConfig

NO_EFFECT, NOTHING_TO_LEARN = "RN133", "RN134"
SHARED = ("qlora_rank", "qlora_alpha", "target_modules", "quantization")
"""Keys of `model` that an adapter keeps from one stage to the next: its shape, and the base that it was trained on."""


def stage_name(index: int, config: Config) -> str:
    """`01-sft`: the folder of a stage and its name everywhere else; `index` counts from 0."""
    return f"{index + 1:02d}-{config.dataset_type}"


def in_stages(loaded: LoadedConfig) -> list[LoadedConfig]:
    """A config for each stage, its keys found where the stage or else the base writes them. Findings about the file
    stay with the whole.
    """
    overlays = loaded.config.stages
    return [
        replace(
            loaded,
            config=_with_its_roles(config, overlay),
            findings=(),
            source=_source(loaded.source, index, overlay),
        )
        for index, (config, overlay) in enumerate(zip(loaded.config.stage_configs(), overlays, strict=True))
    ]


def _with_its_roles(config: Config, overlay: Mapping[str, Any]) -> Config:
    """The config without the GPUs that the base names for servers which only other stages have."""
    own = overlay.get("resources") or {}
    roles = ["inference_gpus"] if config.dataset_type == "sft" else []
    roles += ["teacher_gpus"] if config.dataset_type != "distill" else []
    changed = {key: None for key in roles if key not in own}
    return config.model_copy(update={"resources": config.resources.model_copy(update=changed)})


def sampling_stage(loaded: LoadedConfig) -> LoadedConfig:
    """The first stage whose student samples, else the first of all; without stages the config itself."""
    if not loaded.config.stages:
        return loaded
    stages = in_stages(loaded)
    chosen = next((stage for stage in stages if stage.config.dataset_type != "sft"), stages[0])
    return replace(chosen, findings=loaded.findings)


def continues(configs: Sequence[Config], overlays: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Whether a stage starts from what the one before it ended with: it names neither adapter nor other student."""
    if index == 0:
        return False
    model = overlays[index].get("model") or {}
    return "adapter" not in model and configs[index].model.path == configs[index - 1].model.path


def disagreements(configs: Sequence[Config], overlays: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """RN126: a stage that continues an adapter of another shape. It would silently train that one."""
    for index in range(1, len(configs)):
        if not continues(configs, overlays, index):
            continue
        before, now = configs[index - 1].model, configs[index].model
        for key in SHARED:
            had, has = getattr(before, key), getattr(now, key)
            if had != has:
                path = _written(("model", key), overlays, index)
                message = (
                    f"stage {index + 1} has `{key}` {has} and goes on from stage {index}, which has {had}"
                )
                hint = (
                    f"give `model.{key}` once for all stages, or start stage {index + 1} anew: adapter: null"
                )
                yield Problem("RN126", path, message, hint)
                break


def holds_in_stages(found: Sequence[Sequence[Problem]], alone: Sequence[Problem]) -> Iterator[Problem]:
    """The problems of the stages without those that another stage takes back; each says which stage it is of.

    A key of the base that has no effect in one stage may have it in another; a student that goes on from the stage
    before has learned something, and is no longer its own teacher. What holds for the base, or in every stage, is
    said of no stage.
    """
    of_base = {_what(problem) for problem in alone}
    everywhere = set.intersection(*({_what(problem) for problem in problems} for problems in found))
    for index, problems in enumerate(found):
        for problem in problems:
            own = problem.path[:1] == ("stages",)
            common = _what(problem) in of_base | everywhere
            if problem.code == NO_EFFECT and not own and not common:
                continue
            if problem.code == NOTHING_TO_LEARN and index > 0:
                continue
            named = own or common
            yield problem if named else replace(problem, message=f"stage {index + 1}: {problem.message}")


def _what(problem: Problem) -> tuple[str, KeyPath, str]:
    return problem.code, problem.path, problem.message


def _written(path: KeyPath, overlays: Sequence[Mapping[str, Any]], index: int) -> KeyPath:
    """The key as the stage writes it, else as the one before it does."""
    for stage in (index, index - 1):
        if path in set(_paths(overlays[stage])):
            return ("stages", stage, *path)
    return path


def _source(source: Source, index: int, overlay: Mapping[str, Any]) -> Source:
    """Where the keys of a stage come from."""
    prefix: KeyPath = ("stages", index)
    base = {key: value for key, value in source.data.items() if key != "stages"}
    written = source.data["stages"][index]
    own = {path: source.moved.get((*prefix, *path), (*prefix, *path)) for path in _paths(written)}
    set_here = {path[2:] for path in source.overridden if path[:2] == prefix}
    return Source(
        source.file,
        merge(base, dict(overlay)),
        source.places,
        {**source.moved, **own},
        frozenset({path for path in source.overridden if path[0] != "stages"} | set_here),
    )


def _paths(data: Any, above: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key and index below `data`."""
    items: Any = data.items() if isinstance(data, Mapping) else enumerate(data)
    for key, value in items:
        yield (*above, key)
        if isinstance(value, Mapping | list):
            yield from _paths(value, (*above, key))
