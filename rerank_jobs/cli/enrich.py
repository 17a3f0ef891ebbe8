"""``enrich``: what is published of a search log as a table of searches and a row for the day."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import orjson

from rerank_jobs.dollars import show_usd
from rerank_jobs.enriching import Enriched, enrich_partition
from rerank_jobs.job_file import load_job

__all__ = ["enrich"]


def enrich(arguments: argparse.Namespace) -> int:
    """Write the summaries of a partition's current generation and print its figures.

    Raises:
        JobError, InputError: the job is no search log with clicks; see ``enrich_partition``.
        StateError: nothing is published, or a published file is gone or damaged.

    """
    found = enrich_partition(load_job(arguments.job), arguments.partition)
    if arguments.json:
        fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
        sys.stdout.write(orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for line in _list_lines(found):
        print(line)
    return 0


def _list_lines(found: Enriched) -> Iterator[str]:
    day = found.day
    state = "written" if found.changed else "unchanged"
    yield f"Generation {found.generation}, partition {found.partition}: summaries {state}"
    yield (
        f"Searches: {day['searches']:,}, {day['searches_with_results']:,} with results,"
        f" {day['searches_with_clicks']:,} with clicks, {day['queries']:,} distinct queries"
    )
    yield from _list_clicks(day)
    if day["searches_with_choice"]:
        yield (
            f"Movement: {day['mean_abs_movement']:.2f} ranks a result, another first result in"
            f" {day['top1_changed_share']:.1%} of {day['searches_with_choice']:,} searches with two"
            " results or more"
        )
    yield (
        f"Paid: {show_usd(day['cost_usd'])}, {day['requests']:,} requests,"
        f" {day['search_units']:,} search units"
    )
    yield f"Searches in {found.searches_path}"
    yield f"Day in {found.day_path}"


def _list_clicks(day: dict[str, Any]) -> Iterator[str]:
    if day["searches_with_clicks"]:
        yield (
            f"Reciprocal rank of the click: {day['click_mrr_before']:.3f} as shown,"
            f" {day['click_mrr_after']:.3f} reranked (clicks favour the order that was shown)"
        )
        yield (
            f"Searches with clicks: {day['improved_share']:.1%} improved,"
            f" {day['same_share']:.1%} same, {day['worsened_share']:.1%} worsened"
        )
    lost = day["clicks_rejected"]
    if lost:
        yield f"Left out: {lost:,} clicks on results that were rejected"
