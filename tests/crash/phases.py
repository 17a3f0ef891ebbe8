"""The phases of a run as a store sees them: which object is created or removed, and when.

They go by the names of objects, not of functions, so that they hold wherever the code moves to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ANY", "FIRST", "PHASES", "SCORING", "KillPoint", "Phase", "is_phase"]

ANY = "any instant"
FIRST = "before the first seal"
SCORING = "scoring"


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase: the moments that belong to it, and the names of objects; ``rank`` orders phases.

    Moments: ``create`` (all is written, the object has no name yet), ``created`` (it has its name;
    locally its folder is not synced yet, in a bucket the reply is not seen yet), ``delete``,
    ``deleted``, and ``merge`` (no object: before the rows of a part, and after each block of them).
    """

    moments: frozenset[str]
    names: re.Pattern[str]
    rank: int


def _phase(moments: str, names: str, rank: int) -> Phase:
    return Phase(frozenset(moments.split()), re.compile(names), rank)


PUBLISHING = (
    r"/out(\.rejected)?/[^/]+\.parquet$|/_all/manifest/|/_all/publish/(?!claim/)[^/]+\.json$"
)
LIBRARY = r"/library/|/compacted/"
RETIRING = r"/_all/plan/|/work\.|/rejected-|/run/.*/part-|/done\.json$"

PHASES = {
    FIRST: _phase("create created", r"/salt$|/FORMAT$|/_all/plan/|/work\.|/_all/run/.*/claim/", 0),
    SCORING: _phase("created", r"/_all/run/.*/claim/", 1),
    "during a seal": _phase("create", r"/seg/", 1),
    "between link and folder fsync": _phase("created", r"/seg/|/done\.json$", 1),
    "merge": _phase("merge", r"", 2),
    "part": _phase("create created", r"/run/.*/part-", 2),
    "done": _phase("create created", r"/done\.json$", 2),
    "publish": _phase("create created delete deleted", PUBLISHING, 3),
    "compaction": _phase("create created delete deleted", LIBRARY, 4),
    "retirement": _phase("delete deleted", RETIRING, 5),
}
"""By name; at most one of them is attacked by a kill."""


@dataclass(frozen=True, slots=True)
class KillPoint:
    """The ``count``-th event of a phase, and how many seconds after it."""

    phase: str
    count: int
    delay: float = 0.0


def is_phase(phase: str, moment: str, name: str) -> bool:
    """Say whether an event belongs to a phase."""
    found = PHASES[phase]
    return moment in found.moments and found.names.search(name) is not None
