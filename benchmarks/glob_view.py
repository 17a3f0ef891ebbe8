"""What a plain glob sees of a partition while generations are published over each other.

Run it by hand: ``python benchmarks/glob_view.py [--output FOLDER]``. A process of its own lists the
folder without pause; each listing is compared with what the manifests name afterwards. The figures
stand in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Queue

from rerank_jobs.job_file import parse_job
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.publisher import PublishOrder, Roots, ShardPart, publish_plan
from rerank_jobs.storage import LocalStore

PARTITION = "_all"
END = ".parquet"
JOB = {
    "name": "glob",
    "input": {
        "path": "x",
        "columns": {"query_id": "q", "query": "q", "document_id": "d", "document": "d"},
    },
}
Listing = tuple[float, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Options:
    """How often, how many parts, how large, and where the output lies."""

    generations: int
    parts: int
    megabytes: float
    output: str | None


def watch(folder: str, stop: Event, results: Queue[tuple[int, list[Listing]]]) -> None:
    """List the folder until told to stop; keep each listing that differs from the one before."""
    seen: list[Listing] = []
    last: frozenset[str] | None = None
    listings = 0
    while not stop.is_set():
        now = time.perf_counter()
        names = frozenset(name for name in os.listdir(folder) if name.endswith(END))  # noqa: PTH208
        listings += 1
        if names != last:
            seen.append((now, names))
            last = names
    seen.append((time.perf_counter(), last or frozenset()))
    results.put((listings, seen))


def publish_all(options: Options, roots: Roots) -> list[Generation]:
    """Publish generations that share no part, one after the other."""
    job = parse_job({**JOB, "output": {"path": roots.output.location}}, base=Path("/"))
    found = []
    for number in range(options.generations):
        plan = f"{number:032x}"
        shards = [put_part(options, roots, plan, shard) for shard in range(options.parts)]
        order = PublishOrder(
            PARTITION, "", plan, shards, None, options.parts, options.parts, {"promise": {}}
        )
        time.sleep(0.02)
        found.append(publish_plan(job, roots, order))
    return found


def put_part(options: Options, roots: Roots, plan: str, shard: int) -> ShardPart:
    """Leave a part of random bytes under state, as a finished shard does."""
    data = os.urandom(int(options.megabytes * 1_000_000))
    digest = hashlib.sha256(data).hexdigest()
    name = f"{PARTITION}/run/{plan}/{shard:05d}/part-{digest[:8]}.parquet"
    roots.state.put_if_absent(name, data)
    return ShardPart(shard, Part(name, digest, len(data), 1), {"scored": 1})


def describe(names: frozenset[str], home: dict[str, int], parts: int) -> str:
    """Say which generations a listing mixes."""
    counts = Counter(home[name] for name in names)
    if not counts:
        return "nothing"
    older, newer = min(counts), max(counts)
    if older == newer:
        return "one generation" if counts[older] == parts else "a part of one generation"
    first = "all" if counts[older] == parts else "some"
    second = "all" if counts[newer] == parts else "some"
    return f"{first} of the old, {second} of the new"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--output", help="a folder on another filesystem: parts are copied")
    options = Options(**vars(parser.parse_args()))
    with (
        tempfile.TemporaryDirectory() as state,
        tempfile.TemporaryDirectory(dir=options.output or state) as output,
    ):
        stores = (f"{output}/out", f"{output}/out.rejected", f"{state}/state")
        roots = Roots(*map(LocalStore, stores))
        Path(stores[0]).mkdir()
        context = multiprocessing.get_context("spawn")
        stop, results = context.Event(), context.Queue()
        watcher = context.Process(target=watch, args=(stores[0], stop, results))
        watcher.start()
        time.sleep(1.0)
        generations = publish_all(options, roots)
        time.sleep(0.1)
        stop.set()
        listings, seen = results.get(timeout=60)
        watcher.join(timeout=10)
    report(options, generations, listings, seen)


def report(
    options: Options, generations: list[Generation], listings: int, seen: list[Listing]
) -> None:
    """Print how long mixtures lasted, by kind and by publishing."""
    home = {part.name: one.number for one in generations for part in one.parts}
    kinds: Counter[str] = Counter()
    mixed: dict[int, float] = {}
    for (start, names), (end, _) in itertools.pairwise(seen):
        kind = describe(names, home, options.parts)
        kinds[kind] += round((end - start) * 1e6)
        if "new" in kind:
            newest = max(home[name] for name in names)
            mixed[newest] = mixed.get(newest, 0.0) + (end - start) * 1e3
    spans = sorted(mixed.values())
    print(f"{len(generations)} generations of {options.parts} parts of {options.megabytes} MB,")
    print(f"{listings:,} listings, {len(seen):,} different")
    for kind, microseconds in kinds.most_common():
        print(f"  {kind}: {microseconds / 1e3:,.1f} ms")
    print(
        f"mixed per publishing: median {statistics.median(spans):.1f} ms,"
        f" longest {spans[-1]:.1f} ms, in {len(spans)} publishings"
    )


if __name__ == "__main__":
    main()
