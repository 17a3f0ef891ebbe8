"""The canary: a fixed query with 20 documents, scored again each night, to see a model move.

It costs one search unit ($0.001 at the API's price). Its texts come with this package and are
nobody's data. What an endpoint said is kept under ``<state>/canary/<scorer>/<number>.json``: never
in the ledger, so that no plan reuses it, but budgets of the day and month count its cost.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from dataclasses import asdict, dataclass
from importlib import resources

import yaml

from rerank_jobs.budgets import is_free, read_caps
from rerank_jobs.config import Job, read_api_key
from rerank_jobs.dollars import show_usd
from rerank_jobs.drift import TOLERANCE, Drift, Reading, compare
from rerank_jobs.embedded import identify_scorer, open_transport
from rerank_jobs.errors import BudgetStop, CanaryMoved, EndpointStop
from rerank_jobs.model import Failed, Outcome, Passage, Request, Scored, ScoreTotals
from rerank_jobs.plan.price import Quantity
from rerank_jobs.plan.tokens import estimate_text
from rerank_jobs.readings import Earlier, keep_reading
from rerank_jobs.score import DIALECTS, ScoreSettings, open_client, read_access, score_requests
from rerank_jobs.storage import Store, open_store
from rerank_jobs.upkeep import prepare_state

__all__ = ["CanaryResult", "Pairs", "check_canary", "read_pairs", "run_canary"]

TRIES = 3
"""It may cost so many times its price, where replies are lost on the way."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The fixed query and documents; ``digest`` (16 hex digits) names them."""

    query: str
    documents: tuple[str, ...]
    digest: str

    def to_request(self) -> Request:
        """Return the one request that has them all."""
        tokens = estimate_text(self.query)
        passages = tuple(
            Passage(_name(text), text, chunks=1, tokens=tokens + estimate_text(text))
            for text in self.documents
        )
        return Request(0, _name(self.query), self.query, passages, search_units=1)


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """One reading, what it cost, and how it differs from the reference and from the last one.

    ``name`` is its record in the state root. The first reading of the pairs by a scorer is the
    reference, as one that is accepted is: they are compared with none.
    """

    number: int
    name: str
    scorer_id: str
    reading: Reading
    search_units: int
    cost_usd: float
    reference: int
    last: int | None
    since_reference: Drift | None
    since_last: Drift | None

    @property
    def moved(self) -> bool:
        """Say whether model, provider or a score is another than in the reference or last time."""
        drifts = (self.since_reference, self.since_last)
        return any(drift is not None and drift.moved for drift in drifts)

    def describe(self) -> str:
        """Return in a few words what moved since when, or that nothing did."""
        if self.since_reference is None or self.since_last is None:
            return "the reference from now on"
        words = f"since reading {self.reference}, the reference: {self.since_reference.describe()}"
        if self.last != self.reference:
            words += f"; since reading {self.last}, the last: {self.since_last.describe()}"
        return words


def read_pairs() -> Pairs:
    """Return the pairs that come with this package."""
    text = resources.files("rerank_jobs").joinpath("canary_pairs.yaml").read_text(encoding="utf-8")
    whole = yaml.safe_load(text)
    query, documents = str(whole["query"]), tuple(map(str, whole["documents"]))
    digest = hashlib.sha256("\0".join((query, *documents)).encode()).hexdigest()[:16]
    return Pairs(query, documents, digest)


def run_canary(job: Job, *, tolerance: float = TOLERANCE, accept: bool = False) -> CanaryResult:
    """Score the pairs with the job's endpoint and model, keep the reading, compare it.

    With ``accept`` it becomes the reference that later ones are compared with. One request is sent;
    it is not paced. A reading that another process keeps at the same time is the one before.

    Raises:
        BudgetStop: a budget has less left than its price; nothing was sent.
        Stopped: see ``rerank_jobs.score``; what it may have cost is kept all the same.
        EndpointStop: the endpoint refuses a document of the canary.
        StateError: the state root is damaged, or of another format.

    """
    pairs, scorer, state = read_pairs(), identify_scorer(job), open_store(job.state_root)
    folder = f"canary/{scorer}"
    prepare_state(state)
    sent = _send(job, pairs, _bound(job, state, folder, pairs))
    spent = {"totals": asdict(sent.totals), "unsealed_usd": sent.cost_usd}
    kept = keep_reading(state, folder, sent.read(), pairs.digest, spent, accept=accept)
    reading, last, reference = sent.complete(job), kept.last, kept.reference

    def since(earlier: Earlier | None) -> Drift | None:
        if earlier is None or accept:
            return None
        return compare(earlier.reading, reading, tolerance)

    return CanaryResult(
        number=kept.number,
        name=kept.name,
        scorer_id=scorer,
        reading=reading,
        search_units=sent.totals.search_units,
        cost_usd=sent.cost_usd,
        reference=kept.number if reference is None or accept else reference.number,
        last=None if last is None else last.number,
        since_reference=since(reference),
        since_last=since(last),
    )


def check_canary(job: Job, result: CanaryResult) -> None:
    """Make an alarm of a reading that moved.

    Raises:
        CanaryMoved: model, provider or a score is another one.

    """
    if result.moved:
        raise CanaryMoved(
            f"job {job.name}: the canary moved ({result.describe()}): scores of before and"
            " after may not fit together: change endpoint.revision to score anew, or take it as it"
            " is with rerank-jobs canary --accept"
        )


@dataclass(slots=True)
class _Sent:
    """What came of the one request: outcomes, or why they are not all there."""

    outcomes: list[Outcome]
    totals: ScoreTotals
    wanted: tuple[Passage, ...]
    stop: Exception | None = None

    @property
    def scored(self) -> list[Scored]:
        return [one for one in self.outcomes if isinstance(one, Scored)]

    @property
    def cost_usd(self) -> float:
        return sum(one.cost_usd for one in self.scored)

    def read(self) -> Reading | None:
        """Return the reading if every document has a score."""
        scores = {
            passage.key: score
            for one in self.scored
            for passage, score in zip(one.request.passages, one.scores, strict=True)
        }
        if len(scores) < len(self.wanted):
            return None
        providers = sorted({one.provider for one in self.scored if one.provider})
        models = sorted({one.model for one in self.scored})
        ordered = tuple(scores[passage.key] for passage in self.wanted)
        return Reading(tuple(models), tuple(providers), ordered)

    def complete(self, job: Job) -> Reading:
        """Return the whole reading, or raise why there is none."""
        if self.stop is not None:
            raise self.stop
        reading = self.read()
        if reading is None:
            codes = sorted({one.code for one in self.outcomes if isinstance(one, Failed)})
            raise EndpointStop(
                f"{job.endpoint.url} refuses documents of the canary ({', '.join(codes)}): it"
                " cannot be compared; check endpoint.model and endpoint.options"
            )
        return reading


def _bound(job: Job, state: Store, folder: str, pairs: Pairs) -> float | None:
    """Return the dollars that it may cost, ``None`` where nothing costs anything."""
    if is_free(job.endpoint):
        return None
    price = Quantity(1, pairs.to_request().tokens).cost(job.endpoint)
    most = [TRIES * price]
    if job.budget.max_usd is not None:
        most.append(job.budget.max_usd)
    caps = read_caps(job, state, time.time(), ours=folder)
    told = "".join(f", {cap.key}: {cap.describe()}" for cap in caps)
    most += [cap.left_usd for cap in caps]
    if price > round(min(most), 6):  # a difference of floats must not refuse an equal one
        raise BudgetStop(
            f"job {job.name}: the canary costs {show_usd(price)}, over what a budget has left"
            f"{told}: nothing is sent; raise it, or run again when it starts anew"
        )
    return max(price, min(most))


def _send(job: Job, pairs: Pairs, most_usd: float | None) -> _Sent:
    request = pairs.to_request()
    key, access = read_api_key(job.endpoint), read_access(job.endpoint, job.resolve)
    settings = ScoreSettings.from_endpoint(job.endpoint, most_usd)
    outcomes: list[Outcome] = []
    sent = _Sent(outcomes, ScoreTotals(), request.passages)

    async def accept(outcome: Outcome) -> None:
        outcomes.append(outcome)

    async def send() -> None:
        client = open_client(job.endpoint, key, access=access, transport=open_transport(job))
        try:
            result = await score_requests(
                [request],
                settings=settings,
                client=client,
                dialect=DIALECTS[job.endpoint.dialect],
                accept=accept,
                conclude=functools.partial(setattr, sent, "totals"),
            )
            sent.stop = result.stop
        finally:
            await client.aclose()

    asyncio.run(send())
    return sent


def _name(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
