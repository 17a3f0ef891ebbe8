"""What a published generation did and cost, as sections of labels and values. Pure.

The page and the command line show the same sections. Nothing of a query or a document is in them:
they are made of the manifest, of counts, and of names of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rerank_jobs.dollars import show_usd
from rerank_jobs.model import ScoreTotals
from rerank_jobs.report.moves import Moves

__all__ = ["RunFigures", "Section", "Sending", "list_sections", "list_tiles", "name_run"]

MOST_FILES = 100
"""Files that are named; of more than that, how many there are."""

_SAVED_BY = {
    "singles": "single candidates, ranked for nothing",
    "deduplication": "pairs that occur again",
    "reuse": "scores of earlier runs",
    "packing": "packing of requests",
}


@dataclass(frozen=True, slots=True)
class Sending:
    """What the recorded processes of a plan sent: their totals, how many, and from when to when.

    Instants in seconds since the epoch; ``latencies`` in seconds by percentile (``p50``).
    A process that was killed left no record.
    """

    totals: ScoreTotals
    processes: int
    begun_at: float
    ended_at: float
    latencies: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One generation: its manifest (contract ``manifest``), and what is known beside it.

    ``current`` is the partition's current generation. Without ``sending`` no process left a
    record, without ``moves`` the published files cannot be read.
    """

    manifest: Mapping[str, Any]
    current: int
    output: str
    rejected: str
    sending: Sending | None
    moves: Moves | None


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and labels with their values, as text for people."""

    title: str
    rows: tuple[tuple[str, str], ...]


def name_run(figures: RunFigures) -> str:
    """Return the run's name: its job, partition and generation."""
    manifest = figures.manifest
    part = "" if manifest["partition"] == "_all" else f", partition {manifest['partition']}"
    return f"{manifest['job']}{part}, generation {manifest['generation']}"


def list_tiles(figures: RunFigures) -> Iterator[tuple[str, str]]:
    """Yield the few figures that are looked at first."""
    manifest, ranking = figures.manifest, figures.manifest.get("ranking")
    yield "rows published", f"{_count_rows(manifest['parts']):,}"
    yield "paid", show_usd(manifest["spent"]["cost_usd"])
    reuse = manifest["promise"].get("savings", {}).get("reuse")
    if reuse:
        yield "saved by reuse", show_usd(reuse["cost_usd"])
    if ranking and ranking["groups"]:
        yield "first result changed", f"{ranking['top1_changed'] / ranking['groups']:.1%}"
    yield "documents failed", f"{manifest['statuses'].get('failed', 0):,}"


def list_sections(figures: RunFigures) -> tuple[Section, ...]:
    """Return all sections, in the order in which they are shown; none is empty."""
    manifest = figures.manifest
    made = (
        Section("Generation", tuple(_list_generation(figures))),
        Section("Rows", (*_list_rows(manifest), *_list_documents(manifest["statuses"]))),
        Section("Price", tuple(_list_price(manifest))),
        Section("Sending", tuple(_list_sending(figures))),
        Section("Ranking", tuple(_list_ranking(figures))),
        Section("Files", tuple(_list_files(figures))),
    )
    return tuple(section for section in made if section.rows)


def _list_generation(figures: RunFigures) -> Iterator[tuple[str, str]]:
    manifest = figures.manifest
    number = manifest["generation"]
    yield "Partition", manifest["partition"]
    state = "current" if number == figures.current else f"superseded by {figures.current}"
    restores = manifest.get("restores")
    yield "Generation", f"{number}, {state}" + (f", goes back to {restores}" if restores else "")
    yield "Published", _show_time(datetime.fromisoformat(manifest["created_at"]))
    yield "Plan", manifest["plan_id"]
    yield "Scored by", _name_scorer(manifest["endpoint"])
    erased = manifest.get("erased")
    if erased:
        yield "Erased", f"{erased['rows']:,} rows, {erased['documents']:,} documents"


def _name_scorer(endpoint: Mapping[str, Any]) -> str:
    """Name the model; the embedded endpoint has one of its own, whatever the job asks for."""
    if endpoint["url"] == "embedded":
        return "the embedded endpoint, an offline stand-in"
    return f"{endpoint['model']} at {endpoint['url']}"


def _list_rows(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    promise = manifest["promise"]
    yield "In", f"{promise['rows_in']:,}"
    yield "Published", f"{_count_rows(manifest['parts']):,}"
    reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(promise["reasons"].items()))
    rejected = _count_rows(manifest["rejected"])
    yield "Rejected", f"{rejected:,}" + (f" ({reasons})" if reasons else "")
    if promise["candidates_cut"]:
        yield "Cut by top_k", f"{promise['candidates_cut']:,}"
    yield "Rankings", f"{promise['groups']:,}"
    yield "Distinct queries", f"{promise['queries']:,}"


def _list_documents(statuses: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    total = sum(statuses.values())
    for status, count in sorted(statuses.items(), key=lambda item: -item[1]):
        if count or status == "failed":
            share = f" ({count / total:.1%})" if total else ""
            yield f"Documents {status}", f"{count:,}{share}"


def _list_price(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    promise, spent = manifest["promise"], manifest["spent"]
    yield "One request per ranking", _show_price(promise["naive_units"], promise["naive_usd"])
    for name, saved in promise.get("savings", {}).items():
        if saved["search_units"] or saved["cost_usd"]:
            yield f"less {_SAVED_BY.get(name, name)}", _show_price(**_pick(saved))
    yield "Planned", _show_requests(promise)
    yield "At most, with retries", show_usd(promise["allowance_usd"])
    yield "Paid", _show_requests(spent)
    if spent.get("segments_ignored"):
        yield "Damaged segments, left out", f"{spent['segments_ignored']:,}"


def _list_sending(figures: RunFigures) -> Iterator[tuple[str, str]]:
    sending = figures.sending
    if sending is None:
        return
    totals = sending.totals
    begun, ended = (
        datetime.fromtimestamp(instant, UTC) for instant in (sending.begun_at, sending.ended_at)
    )
    yield "From", _show_time(begun)
    yield "To", _show_time(ended)
    yield "Processes with a record", f"{sending.processes:,}"
    yield "Requests, with retries", f"{totals.requests:,}"
    yield "Throttled (429)", f"{totals.throttled:,}"
    for count, name in (
        (totals.retries, "Sent again"),
        (totals.lost, "Lost (timeouts, broken connections)"),
        (totals.malformed, "Replies that could not be used"),
        (totals.refused, "Refused for their content"),
    ):
        if count:
            yield name, f"{count:,}"
    if totals.wasted_usd:
        yield "Paid for replies of no use", show_usd(totals.wasted_usd)
    if totals.unknown_usd:
        yield "Of unknown fate, at most", show_usd(totals.unknown_usd)
    if sending.latencies:
        shown = [f"{name} {seconds:.2f} s" for name, seconds in sending.latencies.items()]
        yield "Latency", ", ".join(shown)
    if totals.utilisation is not None:
        yield "Of the rate limit used", f"{totals.utilisation:.1%}"


def _list_ranking(figures: RunFigures) -> Iterator[tuple[str, str]]:
    ranking, moves = figures.manifest.get("ranking"), figures.moves
    if ranking:
        yield "First result changed", _show_share(ranking["top1_changed"], ranking["groups"])
        yield "All scores equal", _show_share(ranking["all_equal"], ranking["scored_groups"])
        if "since_groups" in ranking:
            changed = _show_share(ranking["since_changed"], ranking["since_groups"])
            yield f"First result changed since generation {ranking['since']}", changed
    if moves is None:
        yield "Places moved", "not counted: the published files cannot be read here"
    elif moves.documents:
        part = (
            "" if moves.documents == moves.of else f", of the first {moves.documents:,} documents"
        )
        yield "Places moved, on average", f"{moves.places / moves.documents:.1f}{part}"


def _list_files(figures: RunFigures) -> Iterator[tuple[str, str]]:
    manifest = figures.manifest
    files = [(figures.output, part) for part in manifest["parts"]]
    files += [(figures.rejected, part) for part in manifest["rejected"]]
    for root, part in files[:MOST_FILES]:
        yield f"{root}/{part['name']}", f"{part['rows']:,} rows, {_show_bytes(part['size'])}"
    if len(files) > MOST_FILES:
        yield "more", f"{len(files) - MOST_FILES:,} files"


def _count_rows(parts: list[dict[str, Any]]) -> int:
    return sum(part["rows"] for part in parts)


def _pick(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {"units": -saved["search_units"], "usd": -saved["cost_usd"]}


def _show_price(units: int, usd: float) -> str:
    return f"{units:,} search units, {show_usd(usd)}"


def _show_requests(figures: Mapping[str, Any]) -> str:
    price = _show_price(figures["search_units"], figures["cost_usd"])
    return f"{figures['requests']:,} requests, {price}"


def _show_share(count: int, total: int) -> str:
    return f"{count:,} of {total:,}" + (f" ({count / total:.1%})" if total else "")


def _show_time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _show_bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:,} bytes"
