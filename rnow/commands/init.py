"""`rnow init`: a project from a template, filled by the skill that owns the template."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnow.assets import asset_root, folders
from rnow.display import console
from rnow.display.failure import error_data
from rnow.display.scaffold import show_plan, show_templates
from rnow.origin import requirement
from rnow.scaffold import Plan, plan_project, raise_if_in_the_way, write_project
from rnow.skills import Skill, load_skill
from rnow_core.config.schema_tree import keys_of, node_at
from rnow_core.errors import UsageError, WouldOverwrite

SETTABLE = ("dataset_type", "student", "teacher")
OTHER_NAMES = {
    "off-distill-agent": "off-distill",
    "context_distill": "context-distill",
    "math_distill": "math-distill",
}
"""Names that a template is asked for by, besides its own."""


@dataclass(frozen=True, slots=True)
class InitRequest:
    """What the command line asked for. `settings` are KEY=VALUE strings."""

    template: str
    target: Path
    name: str = ""
    settings: tuple[str, ...] = ()
    dry_run: bool = False
    force: bool = False


def list_templates(as_json: bool) -> int:
    """Show every template with what it is for."""
    owners = _owners()
    rows = [
        {
            "name": name,
            "skill": owner.name if owner else None,
            "description": owner.description if owner else "",
        }
        for name in folders(asset_root() / "templates")
        for owner in [owners.get(name)]
    ]
    if as_json:
        console.document({"templates": rows})
    else:
        show_templates(rows)
    return 0


def init(request: InitRequest, as_json: bool) -> int:
    """Plan the project, write it unless something is in the way, and say what comes next."""
    request = replace(request, template=OTHER_NAMES.get(request.template, request.template))
    template = _find_template(request.template)
    skill = _with_settings(_owners().get(request.template), request)
    plan = plan_project(template, skill, request.target, _context(skill, request))
    steps = next_commands(skill, request.target)
    try:
        if request.dry_run:
            raise_if_in_the_way(plan, request.force)
        else:
            write_project(plan, request.force)
    except WouldOverwrite as error:
        if not as_json:
            raise
        console.document({**_result(plan, request, []), "created": [], "error": error_data(error)})
        return error.exit_code
    if as_json:
        console.document(_result(plan, request, steps))
    else:
        show_plan(plan, steps, request.dry_run)
    return 0


def next_commands(skill: Skill | None, target: Path) -> list[str]:
    """What to type after `init`: the skill's quick start, in the project's folder."""
    here = target.resolve() == Path.cwd().resolve()
    enter = [] if here else [f"cd {shlex.quote(str(target))}"]
    return enter + ((skill.commands("Quick start") if skill else []) or ["rnow validate", "rnow run"])


def config_defaults(above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every default of config.yml, nested as in the file; required keys are missing."""
    found: dict[str, Any] = {}
    for key in keys_of(above):
        node = node_at((*above, key)) or {}
        if "default" in node:
            found[key] = node["default"]
        elif below := config_defaults((*above, key)):
            found[key] = below
    return found


def _result(plan: Plan, request: InitRequest, steps: list[str]) -> dict[str, Any]:
    """The JSON answer. `created` holds what would be created when `dry_run` is true."""
    conflicts = plan.paths("conflict", "blocked")
    return {
        "template": request.template,
        "dir": str(plan.target),
        "dry_run": request.dry_run,
        "created": plan.paths("create"),
        "overwritten": conflicts if request.force and steps else [],
        "identical": plan.paths("identical"),
        "conflicts": [] if request.force and steps else conflicts,
        "next": steps,
    }


def _find_template(name: str) -> Path:
    """The template's folder; an unknown name is a usage error that lists them all."""
    known = folders(asset_root() / "templates")
    if name in known:
        return known[name]
    listed = f"Templates: {', '.join(known)}. More about them: rnow init --list"
    if not name:
        raise UsageError("Which template?", listed)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f" Did you mean '{close[0]}'?" if close else ""
    raise UsageError(f"There is no template '{name}'.{suggestion}", listed)


def _owners() -> dict[str, Skill]:
    """Template name -> the skill that owns it."""
    skills = [load_skill(folder) for folder in folders(asset_root() / "skills").values()]
    return {skill.template: skill for skill in skills if skill.template}


def _with_settings(skill: Skill | None, request: InitRequest) -> Skill | None:
    """The skill with `--set` values in place of its own proposals."""
    allowed = [key for key in SETTABLE if skill and key in skill.metadata]
    changed: dict[str, str] = {}
    for setting in request.settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in allowed:
            raise UsageError(
                f"--set {setting}: expected KEY=VALUE with a key that template '{request.template}' has.",
                f"Keys: {', '.join(allowed) or 'none'}. Everything else is changed in config.yml.",
            )
        changed[key] = value
    return replace(skill, metadata={**skill.metadata, **changed}) if skill else None


def _context(skill: Skill | None, request: InitRequest) -> dict[str, Any]:
    """What a template can name. Without a skill, naming `skill` is an error like any undefined name."""
    name = request.name or request.target.resolve().name
    context: dict[str, Any] = {
        "project": {"name": name, "named": bool(request.name)},
        "defaults": config_defaults(),
        "install": {"requirement": requirement("train")},
    }
    return {**context, "skill": skill.descriptor()} if skill else context
