"""A run in figures and in a few lines: what it sent and paid, and what it did to the ranking.

Figures are small JSON values (counts, shares, dollars), fit for XCom, metrics and a log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rerank_jobs.dollars import show_usd
from rerank_jobs.report.movement import Movement, describe_movement

if TYPE_CHECKING:
    from rerank_jobs.report.evaluation import Evaluation

__all__ = [
    "describe_outcome",
    "list_evaluation",
    "list_movement",
    "measure_use",
    "summarise_ranking",
]


def measure_use(sends: Iterable[Mapping[str, Any]], *, shared: bool) -> float | None:
    """Return which share of what the rate limit allowed was accepted; ``None`` without a limit.

    Each of ``sends`` is what one task sent: ``requests``, ``throttled``, ``sends_allowed`` (by its
    own limit, in its time), ``started_at`` (seconds since the epoch) and ``seconds``. With
    ``shared`` all of them kept one limit: time that several were at work counts once.
    """
    sends = [one for one in sends if one.get("sends_allowed")]
    if not sends:
        return None
    accepted = sum(one["requests"] - one["throttled"] for one in sends)
    allowed = sum(one["sends_allowed"] for one in sends)
    if shared:
        seconds = sum(one["seconds"] for one in sends)
        spans = [(one["started_at"], one["started_at"] + one["seconds"]) for one in sends]
        allowed *= _cover(spans) / seconds if seconds else 1.0
    return round(float(accepted / allowed), 4)


def _cover(spans: Sequence[tuple[float, float]]) -> float:
    """Return how much time the spans cover together."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def summarise_ranking(ranking: Mapping[str, int] | None) -> dict[str, Any]:
    """Return how the ranking moved by a manifest's own counts, which cost nothing to read.

    ``queries_ranked`` had a first document to choose; ``top1_changed`` is their share whose first
    document is another than the first stage's. Manifests of earlier versions have no counts.
    """
    if ranking is None:
        return {}
    groups = ranking["groups"]
    changed = ranking["top1_changed"] / groups if groups else 0.0
    return {"queries_ranked": groups, "top1_changed": round(changed, 4)}


def list_movement(movement: Movement) -> dict[str, Any]:
    """Return a measured movement as figures."""
    return {
        "queries_ranked": movement.groups_ranked,
        "top1_changed": round(movement.top_1_changed, 4),
        "mean_abs_delta": round(movement.mean_abs_delta, 3),
        "overlap_at_10": round(movement.overlap_at_10, 4),
    }


def list_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Return a measured quality as figures."""
    return {
        "queries_judged": evaluation.queries_measured,
        "ndcg_before": round(evaluation.before.ndcg_at_10, 4),
        "ndcg_after": round(evaluation.after.ndcg_at_10, 4),
    }


def describe_outcome(
    figures: Mapping[str, Any], movement: Movement | None, evaluation: Evaluation | None
) -> str:
    """Return the lines that close a run, in one text.

    ``figures`` are those of the report: of the published generation and of the run's own sends.
    ``movement`` is ``None`` where the generation is not current any more.
    """
    return "\n".join(_lines(figures, movement, evaluation))


def _lines(
    figures: Mapping[str, Any], movement: Movement | None, evaluation: Evaluation | None
) -> Iterator[str]:
    aside = figures["rows_rejected"]
    yield (
        f"Partition {figures['partition']}, generation {figures['generation']}:"
        f" {figures['rows']:,} rows" + (f", {aside:,} put aside" if aside else "")
    )
    yield f"Sent: {_describe_sends(figures)}"
    yield (
        f"Paid: {show_usd(figures['paid_usd'])} for {figures['paid_requests']:,} requests, over all"
        " tries of this generation"
    )
    yield f"Moved: {describe_movement(movement) if movement else 'replaced before it was measured'}"
    if evaluation is not None:
        low, high = evaluation.interval.low, evaluation.interval.high
        yield (
            f"Quality: nDCG@10 {evaluation.before.ndcg_at_10:.3f} before,"
            f" {evaluation.after.ndcg_at_10:.3f} after ({evaluation.ndcg_change:+.3f}, 95 %"
            f" interval {low:+.3f} to {high:+.3f}), {evaluation.queries_measured:,} queries"
        )


def _describe_sends(figures: Mapping[str, Any]) -> str:
    if not figures["requests"]:
        return "nothing: every score was there already"
    line = (
        f"{figures['requests']:,} requests, {figures['search_units']:,} search units,"
        f" {show_usd(figures['cost_usd'])}; {figures['throttled']:,} throttled (429)"
    )
    use = figures["limit_utilisation"]
    return line if use is None else f"{line}; {use:.1%} of the rate limit used"
