"""The contracts of ``schemas/``: what the code writes is what they say, and they say all of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rerank_jobs.config import Columns, Input, Job
from rerank_jobs.contracts import (
    arrow_schema,
    check_input,
    contract_versions,
    load_roles,
    schema_folder,
)
from rerank_jobs.errors import InputError
from rerank_jobs.job import plan_partition, run_partition
from rerank_jobs.job_file import parse_job
from rerank_jobs.storage import seal_json
from tests.unit.cli.kit import JOB, make_rows, write_table


def make_job_schema() -> dict[str, Any]:
    """Return the schema of the job file as the code has it."""
    schema = Job.model_json_schema()
    del schema["properties"]["base"]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rerank-jobs job file",
        "x-contract": "job",
        "x-version": 1,
    }
    return {**head, **{key: value for key, value in schema.items() if key != "title"}}


def test_the_job_schema_is_the_code() -> None:
    """``schemas/job.v1.json`` equals the schema that the code gives."""
    written = json.loads((schema_folder() / "job.v1.json").read_text(encoding="utf-8"))
    assert written == make_job_schema(), (
        "write json.dumps(make_job_schema(), indent=2) of this test to schemas/job.v1.json"
    )


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plan and run a job with a rejected row; keep a copy of its plan, which publishing removes."""
    folder = tmp_path_factory.mktemp("contracts")
    write_table(folder / "candidates.parquet", [*make_rows(), {**make_rows()[0], "query": " "}])
    job = parse_job({**JOB, "shards": {"rows_per_shard": 5}}, base=folder)
    planned = plan_partition(job)
    plan = folder / "out.state" / "_all" / "plan" / f"{planned.plan_id}.json"
    (folder / "plan.json").write_bytes(plan.read_bytes())
    result = run_partition(job)
    assert result.generation is not None
    return {
        "plan": folder / "plan.json",
        "manifest": folder / "out.state" / result.generation.name,
        "out": folder / "out",
        "rejected": folder / "out.rejected",
        "segment": next(folder.glob("out.state/_all/run/*/*/seg/*.arrow")),
        "library": next(folder.glob("out.state/library/*/*.parquet")),
    }


OPTIONAL = {"ranking", "restores", "withdrawn", "sample", "library"}
"""Fields that came later: objects of earlier versions lack them."""


@pytest.mark.parametrize("name", ["plan", "manifest"])
def test_state_objects_validate(run_files: dict[str, Path], name: str) -> None:
    """The plan and the manifest of a real run are what their schemas say, to the last key."""
    schema = json.loads((schema_folder() / f"{name}.v1.json").read_text(encoding="utf-8"))
    document = json.loads(run_files[name].read_text(encoding="utf-8"))
    checker = jsonschema.Draft202012Validator
    checker.check_schema(schema)
    checker(schema, format_checker=checker.FORMAT_CHECKER).validate(document)
    for key in set(document) - {"contract", "version", *OPTIONAL}:
        with pytest.raises(jsonschema.ValidationError):
            checker(schema).validate({k: v for k, v in document.items() if k != key})


@pytest.mark.parametrize("name", ["plan", "manifest"])
def test_a_checksum_can_be_checked_without_us(run_files: dict[str, Path], name: str) -> None:
    """``sha256`` is of the rest with sorted keys, two blanks of indent and a last line break."""
    document = json.loads(run_files[name].read_text(encoding="utf-8"))
    said = document.pop("sha256")
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == said


def test_sealing_is_the_same_for_any_order_of_keys() -> None:
    """Key order and an old checksum do not enter the sealed bytes."""
    one = seal_json({"b": 1, "a": {"y": [1.5, None], "x": "ü"}})
    two = seal_json({"a": {"x": "ü", "y": [1.5, None]}, "b": 1, "sha256": "old"})
    assert one == two
    assert json.loads(one)["a"] == {"x": "ü", "y": [1.5, None]}


def test_manifest_digests_can_be_checked_with_sha256sum(run_files: dict[str, Path]) -> None:
    """The manifest's SHA-256 of each part is what the common tool prints."""
    manifest = json.loads(run_files["manifest"].read_text(encoding="utf-8"))
    for part in manifest["parts"]:
        path = run_files["out"] / part["name"]
        done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == part["sha256"]
        assert path.stat().st_size == part["size"]


def test_written_tables_have_the_types_of_their_contracts(run_files: dict[str, Path]) -> None:
    """Published, rejected, ledger and library files carry exactly the columns of the contracts."""
    part = pq.read_schema(next(run_files["out"].glob("*.parquet")))
    rejected = pq.read_schema(next(run_files["rejected"].glob("*.parquet")))
    source = len(make_rows()[0])
    assert list(part)[source:] == list(arrow_schema("scored"))
    assert list(rejected)[source:] == list(arrow_schema("rejected"))
    with pa.ipc.open_file(str(run_files["segment"])) as segment:
        assert list(segment.schema) == list(arrow_schema("ledger"))
    library = pq.read_schema(run_files["library"]).remove_metadata()
    assert library.names == arrow_schema("library").names
    assert library.types == arrow_schema("library").types


def test_every_contract_has_one_version_and_is_listed() -> None:
    """Each contract has one file and is named in the README; those of summaries name no plan."""
    names = {"job", "candidates", "search_log", "scored", "rejected", "ledger", "library"}
    versions = contract_versions()
    assert versions == dict.fromkeys(names | {"plan", "manifest"}, 1) | {"ledger": 2, "library": 2}
    readme = (schema_folder() / "README.md").read_text(encoding="utf-8")
    files = [path.name.partition(".")[0] for path in schema_folder().glob("*.v*.*")]
    assert sorted(files) == sorted({*versions, "search_summary", "day_summary"})
    for name in files:
        assert f"`{name}`" in readme


def test_contract_files_name_themselves() -> None:
    """Each file says its own name and version, as its file name does."""
    for path in schema_folder().glob("*.v*.*"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = content.get("contract", content.get("x-contract"))
        version = content.get("version", content.get("x-version"))
        assert path.name.startswith(f"{name}.v{version}.")


def test_every_role_is_a_key_of_the_job_file() -> None:
    """Roles of the contracts and ``input.columns`` are the same names."""
    roles = {role.name for layout in ("long", "search_log") for role in load_roles(layout)}
    assert roles == set(Columns.model_fields)


LONG = Input(path="x", columns=Columns(query_id="query_id", document_id="doc_id", document="text"))  # type: ignore[arg-type]  # one name is widened


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_of_any_width_is_text(kind: Any) -> None:
    """Strings may be plain, large, views or dictionaries; bytes are no text."""
    for text in (kind, pa.dictionary(pa.int32(), kind)):
        schema = pa.schema({"query_id": text, "query": text, "doc_id": text, "text": text})
        check_input(schema, LONG, "table", replace=False)
    with pytest.raises(InputError, match="must be string"):
        check_input(schema.set(1, pa.field("query", pa.binary())), LONG, "table", replace=False)
