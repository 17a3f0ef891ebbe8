"""The tables of a job: where they are, how they are shaped, which columns play which role."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from rerank_jobs.config.part import Count, Part
from rerank_jobs.places import check_template

__all__ = [
    "Candidates",
    "Columns",
    "Enrichment",
    "Input",
    "Layout",
    "Output",
    "Partition",
    "State",
]

Layout = Literal["long", "nested", "search_log"]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Columns(Part):
    """Which column (or, in list layouts, which field of the candidate struct) plays which role."""

    query_id: str | None = None
    query: str = "query"
    document_id: str = "document_id"
    document: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ("document",)
    first_stage_score: str | None = None
    first_stage_rank: str | None = None
    candidates: str | None = None
    position: str | None = None
    clicked: str | None = None
    search_id: str | None = None


class Input(Part):
    """Where the candidate table is and how it is shaped."""

    path: str
    layout: Layout = "long"
    columns: Columns = Columns()
    on_bad_rows: Literal["reject", "fail"] = "reject"

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        columns = self.columns
        if not columns.document:
            raise ValueError("columns.document: name at least one column")
        if len(set(columns.document)) < len(columns.document):
            raise ValueError("columns.document names a column twice")
        if self.layout == "long":
            if columns.query_id is None:
                raise ValueError("columns.query_id is needed in layout long")
            for role in ("candidates", "position", "clicked", "search_id"):
                if getattr(columns, role) is not None:
                    raise ValueError(f"columns.{role} belongs to layout nested or search_log")
        elif columns.candidates is None:
            raise ValueError(
                f"columns.candidates must name the list column in layout {self.layout}"
            )
        return self


class Partition(Part):
    """How a partition key becomes a folder name."""

    template: str = "{key}"

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        check_template(self.template)
        return self


class Candidates(Part):
    """Which candidates are worth paying for."""

    top_k: Count | None = None


class Output(Part):
    """Where published tables go; nothing else is written there."""

    path: str
    replace: bool = False


class State(Part):
    """Where plans, paid scores and manifests live; ``None``: beside the output."""

    path: str | None = None


class Enrichment(Part):
    """What the summaries of a search log need besides ``input.columns``.

    ``time`` names the column that holds when a search was made.
    """

    time: str | None = None
