"""The connection type ``openrouter``: a key, the server that it is for, what a job leaves out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret
from pydantic import ValidationError

from rerank_jobs.airflow.provider_info import CONNECTION_TYPE
from rerank_jobs.config import Endpoint, Job, read_api_key
from rerank_jobs.errors import JobError, RerankJobsError
from rerank_jobs.secret import HeldKey, check_key

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["OPENROUTER_URL", "OpenRouterHook", "fill_endpoint"]

OPENROUTER_URL = "https://openrouter.ai/api/v1"
"""The server of a connection that names none."""

_ASK_SECONDS = 15.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


class OpenRouterHook(BaseHook):
    """Reads a connection, from wherever Airflow keeps it, before anything is sent.

    The key is in Airflow's masker from then on, and in a ``Secret``. These are sync calls: make
    them outside an event loop.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "openrouter_default"
    conn_type = CONNECTION_TYPE
    hook_name = "OpenRouter"

    def __init__(self, conn_id: str = default_conn_name) -> None:
        """Name the connection; nothing is read yet."""
        super().__init__()
        self.conn_id = conn_id

    def get_conn(self) -> Endpoint:
        """Return the endpoint that the connection describes, which holds its key.

        Raises:
            AirflowNotFoundException: nothing that Airflow asks has such a connection.
            JobError: it is of another type, or a field of it cannot be used.
            KeyStop: its key is none that a header can carry.

        """
        return _make_endpoint(self.get_connection(self.conn_id))

    def complete(self, job: Job) -> Job:
        """Return ``job`` with the connection's key, and what its file says nothing about.

        A job that names the embedded endpoint needs no key: its connection is not read.

        Raises:
            JobError: see ``get_conn`` and ``fill_endpoint``.

        """
        if "url" in job.endpoint.model_fields_set and job.endpoint.embedded:
            return job
        return job.model_copy(update={"endpoint": fill_endpoint(job.endpoint, self.get_conn())})

    def test_connection(self) -> tuple[bool, str]:
        """Ask for what the server knows of the key (``GET /key``), which costs nothing."""
        from rerank_jobs.score import ask_account, describe_account, read_access

        try:
            endpoint = self.get_conn()
            key, access = read_api_key(endpoint), read_access(endpoint)
            reply = ask_account(endpoint, key, access, timeout_seconds=_ASK_SECONDS)
        except RerankJobsError as error:
            return False, str(error)
        if reply.account is None:
            return False, f"{endpoint.url}: {reply.reason} to GET /key: check base URL and API key"
        return True, f"{endpoint.url} takes the key{describe_account(reply.account)}"


def fill_endpoint(endpoint: Endpoint, connected: Endpoint) -> Endpoint:
    """Return a job's ``endpoint`` with the key of ``connected``, and its fields where unset.

    What the job file writes stays, so its prices, scores and limits are those of the command line.

    Raises:
        JobError: the job file names another server: a key is sent to its own server alone.

    """
    written = endpoint.model_dump(exclude_unset=True)
    if "url" in written and _origin(endpoint.url) != _origin(connected.url):
        raise JobError(
            f"endpoint.url is {endpoint.url}, but {connected.key_place} is for {connected.url}:"
            " its key is sent nowhere else: change one of them"
        )
    offered = connected.model_dump(exclude_unset=True)
    filled = Endpoint.model_validate({**offered, **written})
    return filled if connected.held_key is None else filled.hold_key(connected.held_key)


def _make_endpoint(connection: Connection) -> Endpoint:
    place = f"the connection {connection.conn_id}"
    if connection.conn_type != CONNECTION_TYPE:
        raise JobError(
            f"{place} is of type {connection.conn_type or 'none'}: name one of type"
            f" {CONNECTION_TYPE}"
        )
    key = check_key(connection.password or "", place)
    if key is not None:
        mask_secret(key.reveal())  # Airflow masks it as it stands there, with blanks around it
    fields = {"url": _make_url(connection, place), **_read_extra(connection.extra, place)}
    try:
        endpoint = Endpoint.model_validate(fields)
    except ValidationError as error:
        # Values stay behind: whoever mixes up the fields of a form may have put the key here.
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'base URL'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise JobError(f"{place}: {'; '.join(problems)}") from None
    return endpoint.hold_key(HeldKey(place, key))


def _make_url(connection: Connection, place: str) -> str:
    """Return the base URL, also of a connection whose URI has it in pieces."""
    host = (connection.host or "").strip()
    if not host:
        return OPENROUTER_URL
    if not host.startswith(("http://", "https://")):
        raise JobError(f"{place}: the base URL (host) must begin with https:// or http://")
    scheme, _, rest = host.partition("://")
    netloc, slash, path = rest.partition("/")
    port = f":{connection.port}" if connection.port else ""
    inner = f"/{connection.schema.strip('/')}" if connection.schema else ""
    return f"{scheme}://{netloc}{port}{slash}{path}".rstrip("/") + inner


def _read_extra(text: str | None, place: str) -> dict[str, Any]:
    """Return the fields of ours among the connection's own; a form leaves empty ones behind."""
    try:
        extra = json.loads(text or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise JobError(f"{place}: its extra is no JSON object")
    given = {name: value for name, value in extra.items() if value not in (None, "")}
    fields = {name: given[name] for name in ("model", "requests_per_minute") if name in given}
    app = {name: given[f"app_{name}"] for name in ("url", "title") if f"app_{name}" in given}
    return {**fields, "app": app} if app else fields


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
