"""What all parts of a job file share: strict, frozen, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

__all__ = ["Count", "Dollars", "Part"]

Dollars = Annotated[float, Field(ge=0)]

Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A mapping of a job file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yes_and_no(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where a number stands: YAML reads yes, no, on and off as them."""
        field = cls.model_fields[info.field_name or ""]
        kinds = {field.annotation, *get_args(field.annotation)}
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError(f"must not be true or false (YAML's yes, no, on, off), got {value}")
        return value
