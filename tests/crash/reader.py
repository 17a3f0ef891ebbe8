"""A reader of state and output that shares no code with the product: pyarrow, json and hashlib.

It knows the layout and the formats only as docs and schemas tell them, so a mistake of the product
in writing and reading the same way does not hide here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Look", "Place", "check_json", "look", "name_pairs", "read_segment"]

NO_DIGEST = hashlib.sha256(b"rerank-jobs segment").hexdigest().encode()


class Place:
    """A folder or a bucket's prefix, read by plain means; objects once read are remembered."""

    def __init__(self, location: str, environment: dict[str, str]) -> None:
        self.location = location
        self._environment = environment
        self._seen: dict[tuple[str, str], bytes] = {}

    def read_all(self) -> dict[str, bytes]:
        """Return every finished object by its name."""
        listed = self._list_bucket() if "://" in self.location else self._list_folder()
        return dict(sorted(listed))

    def _list_folder(self) -> Iterator[tuple[str, bytes]]:
        for folder, folders, names in os.walk(self.location):
            folders[:] = [name for name in folders if not name.startswith("scratch-")]
            for name in names:
                path = Path(folder, name)
                if not name.startswith(".tmp-"):
                    yield str(path.relative_to(self.location)), path.read_bytes()

    def _list_bucket(self) -> Iterator[tuple[str, bytes]]:
        client = self._open_client()
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        for page in pages:
            for item in page.get("Contents", ()):
                version = (item["Key"], item["ETag"])
                if version not in self._seen:
                    answer = client.get_object(Bucket=bucket, Key=item["Key"])
                    self._seen[version] = answer["Body"].read()
                yield item["Key"].removeprefix(f"{prefix}/"), self._seen[version]

    def _open_client(self) -> Any:
        import boto3  # type: ignore[import-untyped]

        return boto3.client(
            "s3",
            endpoint_url=self._environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self._environment["AWS_REGION"],
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What stands in state and output at one moment; pairs are ``query_key + passage_key``.

    ``sealed`` counts how often each pair stands in segments, ``scores`` holds the first score in
    (epoch, sequence, row) order, ``requests`` (passages, dollars) of each sealed reply.
    ``problems`` say what must not be, in words.
    """

    sealed: Counter[bytes] = field(default_factory=Counter)
    scores: dict[bytes, float] = field(default_factory=dict)
    requests: list[tuple[int, float]] = field(default_factory=list)
    done: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    library: dict[bytes, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def passages(self) -> int:
        """Sealed passages, each as often as it was paid."""
        return self.sealed.total()

    @property
    def cost_usd(self) -> float:
        """Dollars of sealed replies."""
        return sum(cost for _, cost in self.requests)


def look(state: Place, output: Place, rejected: Place) -> Look:
    """Read everything and check what must hold at every moment.

    Every segment, ``done.json``, manifest and part that has its name is whole, and the newest
    manifest's files stand in the output as it says.
    """
    found = Look()
    objects = state.read_all()
    for name, data in objects.items():
        if "/seg/" in name and name.endswith(".arrow"):
            _add_segment(found, name, data)
        elif name.endswith("/done.json"):
            _add_done(found, objects, name)
        elif "/run/" in name and name.rpartition("/")[2].startswith(("part-", "rejected-")):
            found.parts[name.rpartition("/run/")[2]] = data
        elif "/manifest/" in name and not name.startswith("library/"):
            _add_manifest(found, name, data)
    for root, place in (("out", output), ("rejected", rejected)):
        for name, data in place.read_all().items():
            found.published[f"{root}/{name}"] = hashlib.sha256(data).hexdigest()
    _check_published(found)
    _read_library(found, objects)
    return found


def _add_segment(found: Look, name: str, data: bytes) -> None:
    try:
        rows = read_segment(data)
    except ValueError as error:
        found.problems.append(f"{name}: {error}")
        return
    for row in rows:
        keys = [row["query_key"] + key for key in row["passage_keys"]]
        found.sealed.update(keys)
        found.requests.append((len(keys), row["cost_usd"]))
        if row["error"] is None:
            for pair, score in zip(keys, row["scores"], strict=True):
                found.scores.setdefault(pair, score)


def read_segment(data: bytes) -> list[dict[str, Any]]:
    """Return the rows of a segment whose bytes fit the digest in its metadata, else ValueError."""
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            digest = (reader.schema.metadata or {}).get(b"sha256", b"")
            blank = data.replace(digest, NO_DIGEST) if digest else b""
            if hashlib.sha256(blank).hexdigest().encode() != digest:
                raise ValueError("a segment's bytes do not fit its digest")
            rows: list[dict[str, Any]] = reader.read_all().to_pylist()
    except (pa.ArrowException, OSError):
        raise ValueError("a torn segment has its name") from None
    return rows


def check_json(data: bytes) -> dict[str, Any]:
    """Return a JSON object whose text without its line ``sha256`` has that digest."""
    lines = data.decode().split("\n")
    place = next((i for i, line in enumerate(lines) if line.startswith('  "sha256": "')), None)
    if place is None:
        raise ValueError("no digest")
    digest = lines.pop(place).split('"')[3]
    if lines[place] == "}":  # it was the last: what stands before it is now
        lines[place - 1] = lines[place - 1].removesuffix(",")
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != digest:
        raise ValueError("its digest does not fit")
    return dict(json.loads(data))


def _add_done(found: Look, objects: dict[str, bytes], name: str) -> None:
    data = objects[name]
    found.done[name.rpartition("/run/")[2]] = data
    try:
        part = check_json(data)["part"]
    except ValueError as error:
        found.problems.append(f"{name}: {error}")
        return
    if part is None:
        return
    # A retiring plan removes its parts before or after their done.json: then it is published.
    held = objects.get(part["name"])
    if held is not None and hashlib.sha256(held).hexdigest() != part["sha256"]:
        found.problems.append(f"{part['name']}: does not have the digest in done.json")


def _add_manifest(found: Look, name: str, data: bytes) -> None:
    try:
        found.manifests[name] = check_json(data)
    except ValueError as error:
        found.problems.append(f"{name}: {error}")


def _check_published(found: Look) -> None:
    """Compare the newest manifest's files with what stands in the output."""
    if not found.manifests:
        return
    name = max(found.manifests)
    for root, kind in (("out", "parts"), ("rejected", "rejected")):
        for part in found.manifests[name][kind]:
            if found.published.get(f"{root}/{part['name']}") != part["sha256"]:
                found.problems.append(f"{name}: {part['name']} does not stand in the output")


def _read_library(found: Look, objects: dict[str, bytes]) -> None:
    """Read the files that each scorer's newest manifest names."""
    newest: dict[str, str] = {}
    for name in objects:
        if name.startswith("library/") and "/manifest/" in name:
            newest[name.split("/")[1]] = name
    for name in newest.values():
        try:
            files = check_json(objects[name])["files"]
        except ValueError as error:
            found.problems.append(f"{name}: {error}")
            continue
        for item in files:
            data = objects.get(item["name"], b"")
            if hashlib.sha256(data).hexdigest() != item["sha256"]:
                found.problems.append(f"{name}: {item['name']} is gone or damaged")
                continue
            for row in pq.read_table(pa.BufferReader(data)).to_pylist():
                found.library[row["query_key"] + row["passage_key"]] = row["score"]


def name_pairs(kept: Path) -> dict[bytes, str]:
    """Return each pair's name on the server's bill, from the work files that a run deleted."""
    names: dict[bytes, str] = {}
    for path in sorted(kept.rglob("work.passages-*")):
        with pa.ipc.open_file(pa.py_buffer(path.read_bytes())) as reader:
            rows = reader.read_all().select(["query_key", "query", "passage_key", "text"])
        for row in rows.to_pylist():
            key = blake2b(row["query"].encode(), digest_size=16).digest()
            text = blake2b(row["text"].encode(), digest_size=16, key=key)
            names[row["query_key"] + row["passage_key"]] = text.hexdigest()
    return names
