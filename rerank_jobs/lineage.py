"""The datasets that a published generation was made of, as OpenLineage names them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import Generation, Part

__all__ = ["Dataset", "list_inputs", "list_outputs"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder or file: OpenLineage's namespace and name; its rows, bytes and files.

    ``fields`` are its columns with their Arrow types, none where they are not known.
    """

    namespace: str
    name: str
    rows: int
    size: int
    files: int
    fields: tuple[tuple[str, str], ...] = ()


def list_inputs(job: Job, generation: Generation) -> list[Dataset]:
    """Return the input of a generation: the partition's folder or file, as planned."""
    document = generation.document
    sizes = [size for _, size, _ in document["inputs"]]
    namespace, name = _name(job.input_location(str(document["partition"])))
    return [Dataset(namespace, name, document["promise"]["rows_in"], sum(sizes), len(sizes))]


def list_outputs(job: Job, generation: Generation) -> list[Dataset]:
    """Return the published folder of a generation, and that of its rejected rows if it has any.

    Columns are read from a footer where files are local.

    Raises:
        OSError: a published file cannot be read.

    """
    folder = job.partition_folder(str(generation.document["partition"]))
    outputs = [_describe(job.output_root, folder, generation.parts, _read_fields(job, generation))]
    if generation.rejected:
        outputs.append(_describe(job.rejected_root, folder, generation.rejected, ()))
    return outputs


def _describe(
    root: str, folder: str, parts: tuple[Part, ...], fields: tuple[tuple[str, str], ...]
) -> Dataset:
    namespace, name = _name(f"{root}/{folder}" if folder else root)
    rows, size = sum(part.rows for part in parts), sum(part.size for part in parts)
    return Dataset(namespace, name, rows, size, len(parts), fields)


def _read_fields(job: Job, generation: Generation) -> tuple[tuple[str, str], ...]:
    output = open_roots(job).output
    if "://" in output.location or not generation.parts:
        return ()  # an object store would fetch the whole file for its footer
    schema = pq.read_schema(output.fetch(generation.parts[0].name))
    return tuple((field.name, str(field.type)) for field in schema)


def _name(location: str) -> tuple[str, str]:
    """Return (namespace, name) by OpenLineage's naming: ``file`` or scheme and bucket, then path.

    Source: the page "Dataset Naming" of OpenLineage's specification (local files, S3, GCS).
    """
    scheme, separated, rest = location.partition("://")
    if not separated:
        return "file", location
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", path or "/"
