"""What all sections of the schema share: strictness, and the types that accept a shorter spelling."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Item = TypeVar("Item")


class Section(BaseModel):
    """Frozen, no unknown keys, no silent conversion ("4" is not 4), no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class OneOrMany:
    """Annotation for a list that a file may write as its single element: both are in the JSON schema."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        lists = [part for part in schema.get("anyOf", [schema]) if part.get("type") == "array"]
        others = [part for part in schema.get("anyOf", []) if part.get("type") != "array"]
        return {"anyOf": [part["items"] for part in lists] + lists + others}


def as_list(value: Any) -> Any:
    """One value -> a list of it; a list stays; nothing stays nothing."""
    return value if value is None or isinstance(value, list) else [value]


def _planned(value: Any) -> Any:
    return None if value == "plan" else value


Text = Annotated[str, Field(min_length=1)]
Files = Annotated[list[Text], Field(min_length=1), BeforeValidator(as_list), OneOrMany()]
OptionalFiles = Annotated[list[Text] | None, BeforeValidator(as_list), OneOrMany()]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
PlannedCount = Annotated[Count | None, BeforeValidator(_planned)]
"""A number of something, or null (also written `plan`): the planner decides and prints why."""
