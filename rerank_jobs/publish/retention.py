"""Retention: which state parts stay so that a generation can be mended or gone back to.

A generation's parts have a copy under state, their ``source``. Those of the current generation and
of the ``keep`` before it stay; two generations may name one source, for it is named by its content.
"""

from __future__ import annotations

from collections.abc import Iterable

from rerank_jobs.errors import StateError
from rerank_jobs.publish.generations import Generation, Part, read_generations
from rerank_jobs.publish.orders import Roots
from rerank_jobs.storage import Put, Store, sha256_of_file

__all__ = [
    "check_source",
    "find_damaged",
    "is_mendable",
    "is_retained",
    "is_whole",
    "list_dead_parts",
    "mend",
    "name_kept",
    "name_sources",
    "place",
]


def name_sources(generations: Iterable[Generation]) -> set[str]:
    """Return the state parts that generations were published from."""
    return {
        part.source
        for generation in generations
        for part in (*generation.parts, *generation.rejected)
        if part.source is not None
    }


def name_kept(state: Store, partition: str, keep: int) -> set[str]:
    """Return the state parts of the current generation and of the ``keep`` before it."""
    return name_sources(read_generations(state, partition, newest=keep + 1))


def list_dead_parts(state: Store, partition: str, kept: set[str]) -> set[str]:
    """Return state parts that are there, that are not ``kept``, and whose plan is not frozen.

    Only what an earlier manifest names of them is surely superseded.
    """
    folder = f"{partition}/run/"
    plans = {entry.name.rpartition("/")[2] for entry in state.entries(f"{partition}/plan")}
    return {
        entry.name
        for entry in state.entries(folder.rstrip("/"))
        if entry.name not in kept
        and entry.name.rpartition("/")[2].startswith(("part-", "rejected-"))
        and f"{entry.name.removeprefix(folder).partition('/')[0]}.json" not in plans
    }


def is_retained(state: Store, generation: Generation) -> bool:
    """Say whether a generation can be gone back to: all of its state parts are there."""
    parts = (*generation.parts, *generation.rejected)
    return all(part.source is not None and state.exists(part.source) for part in parts)


def find_damaged(
    roots: Roots, generation: Generation, *, deep: bool = False
) -> list[tuple[Store, Part]]:
    """Return published files that are gone or of another size, with ``deep`` or of other bytes."""
    found = []
    for store, parts in ((roots.output, generation.parts), (roots.rejected, generation.rejected)):
        sizes: dict[str, int] = {}
        for folder in {part.name.rpartition("/")[0] for part in parts}:
            sizes |= {entry.name: entry.size for entry in store.entries(folder)}
        for part in parts:
            whole = sizes.get(part.name) == part.size
            if not whole or (deep and not is_whole(store, part.name, part)):
                found.append((store, part))
    return found


def is_whole(store: Store, name: str, part: Part) -> bool:
    """Say whether the object ``name`` holds a part's bytes."""
    try:
        path = store.fetch(name)
        return path.stat().st_size == part.size and sha256_of_file(path) == part.sha256
    except FileNotFoundError:
        return False


def is_mendable(state: Store, damaged: Iterable[tuple[Store, Part]]) -> bool:
    """Say whether each damaged file has a whole copy under state."""
    return all(part.source and is_whole(state, part.source, part) for _, part in damaged)


def mend(roots: Roots, generation: Generation, *, deep: bool = False) -> list[str]:
    """Put a generation's damaged or missing files back from state; return their names.

    For the one process that publishes the partition.

    Raises:
        StateError: a file's copy is gone or damaged too; its scores are kept all the same.

    """
    mended = []
    for store, part in find_damaged(roots, generation, deep=deep):
        if part.source is None or not is_whole(roots.state, part.source, part):
            raise StateError(
                f"{store.location}/{part.name}: gone or damaged, and so is its copy under state:"
                " remove it and run the job again: it is made again from paid scores"
            )
        place(roots.state, store, part, replace=True)
        mended.append(part.name)
    return mended


def check_source(state: Store, part: Part) -> None:
    """Make sure that a part's copy under state is whole.

    Raises:
        FileNotFoundError: it is gone.
        StateError: it is damaged.

    """
    path = state.fetch(part.source or part.name)
    if path.stat().st_size != part.size or sha256_of_file(path) != part.sha256:
        raise StateError(
            f"{state.location}/{part.source}: a finished part is damaged: nothing was published;"
            " run again"
        )


def place(state: Store, store: Store, part: Part, *, replace: bool = False) -> None:
    """Copy a part from state to where it is published; ``replace`` what stands there damaged.

    Raises:
        FileNotFoundError: its copy under state is gone.
        StateError: another file stands in the way.

    """
    path = state.fetch(part.source or part.name)
    if store.put_file_if_absent(part.name, path) is not Put.OTHER:
        return
    if not replace:
        raise StateError(
            f"{store.location}/{part.name}: a different file has this part's name: remove it,"
            " run again"
        )
    store.delete(part.name)  # the name is ours, and its bytes are surely not the manifest's
    if store.put_file_if_absent(part.name, path) is Put.OTHER:
        raise StateError(f"{store.location}/{part.name}: cannot be put back: run again")
