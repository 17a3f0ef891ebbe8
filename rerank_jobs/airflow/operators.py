"""Publishing as an operator: what a task function cannot give, a link to its report and lineage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperator
from airflow.sdk.bases.operatorlink import BaseOperatorLink
from airflow.sdk.configuration import conf

from rerank_jobs.airflow.failures import report_failures

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.types import TaskInstanceKey

    from rerank_jobs.lineage import Dataset

__all__ = ["REPORT_KEY", "REPORT_PREFIX", "PublishOperator", "RunReportLink", "list_sent"]

REPORT_KEY = "report"
"""XCom key of what the report of a run is made from: ``job``, ``partition``, ``generation``."""

REPORT_PREFIX = "/rerank"
"""Where the api-server serves reports (``rerank_jobs.airflow.plugin``)."""


def list_sent(plan: dict[str, Any], scored: Any) -> Sequence[dict[str, Any]]:
    """Return what the scoring tasks of this very run returned, none where nothing was to score.

    A run that is cleared keeps what its tasks returned before if it has no such tasks any more.
    """
    # The sequence is lazy: a slice is one call, and iterating asks for an item beyond the last.
    count = int(plan["shards"])
    sent: Sequence[dict[str, Any]] = scored[:count] if scored is not None and count else ()
    return sent


class RunReportLink(BaseOperatorLink):
    """Leads from a task to the report of what it published, on the same api-server."""

    name = "Run report"

    def get_link(
        self,
        operator: BaseOperator,  # noqa: ARG002 - Airflow passes it by name
        *,
        ti_key: TaskInstanceKey,
    ) -> str:
        """Return the path of the report, below the path of ``[api] base_url``."""
        root = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        names = (ti_key.dag_id, ti_key.run_id, ti_key.task_id)
        return f"{root}{REPORT_PREFIX}/runs/{'/'.join(quote(name, safe='') for name in names)}"


class PublishOperator(BaseOperator):
    """Publishes a scored plan, or finds it published, and returns its generation in figures.

    ``plan`` and ``scored`` are what the tasks ``plan`` (its key ``plan``) and ``score`` returned.
    The figures become the ``extra`` of the event of each outlet. Doing it again changes nothing.
    """

    template_fields = ("job", "conn_id", "plan", "scored")
    operator_extra_links = (RunReportLink(),)
    ui_color = "#d9ead3"

    def __init__(
        self, *, job: str, plan: Any, scored: Any, conn_id: str = "", **options: Any
    ) -> None:
        """Keep what is rendered when the task runs."""
        super().__init__(**options)
        self.job = job
        self.conn_id = conn_id
        self.plan = plan
        self.scored = scored
        self._generation: int | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish; see ``rerank_jobs.airflow.steps.publish``, whose figures are returned."""
        from rerank_jobs.airflow import steps

        sent = list_sent(self.plan, self.scored)
        partition, plan_id = self.plan["partition"], self.plan["plan_id"]
        with report_failures(context["task_reschedule_count"]):
            figures = steps.publish(self.job, partition, plan_id, sent, self.conn_id)
        self._generation = figures["generation"]
        context["ti"].xcom_push(
            REPORT_KEY,
            {
                "job": str(Path(self.job).expanduser().absolute()),
                "partition": partition,
                "generation": self._generation,
            },
        )
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = figures
        return figures

    def get_openlineage_facets_on_complete(
        self,
        task_instance: Any,  # noqa: ARG002 - Airflow passes it
    ) -> OperatorLineage[Any, Any]:
        """Return the input and the published folders, with their rows, bytes and files.

        Airflow calls it after ``execute``, in the same process, where its OpenLineage provider is.
        """
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.facet_v2 import input_statistics_input_dataset as read
        from openlineage.client.facet_v2 import output_statistics_output_dataset as written
        from openlineage.client.generated.base import InputDataset, OutputDataset

        from rerank_jobs.job_file import load_job
        from rerank_jobs.lineage import list_inputs, list_outputs
        from rerank_jobs.reporting import find_generation

        job = load_job(Path(self.job).expanduser())
        generation = find_generation(job, self.plan["partition"], self._generation)
        inputs = [
            InputDataset(
                namespace=one.namespace,
                name=one.name,
                inputFacets={
                    "inputStatistics": read.InputStatisticsInputDatasetFacet(
                        rowCount=one.rows, size=one.size, fileCount=one.files
                    )
                },
            )
            for one in list_inputs(job, generation)
        ]
        outputs = [
            OutputDataset(
                namespace=one.namespace,
                name=one.name,
                facets=_describe_schema(one),
                outputFacets={
                    "outputStatistics": written.OutputStatisticsOutputDatasetFacet(
                        rowCount=one.rows, size=one.size, fileCount=one.files
                    )
                },
            )
            for one in list_outputs(job, generation)
        ]
        return OperatorLineage(inputs=inputs, outputs=outputs)


def _describe_schema(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import schema_dataset

    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=name, type=kind)
        for name, kind in dataset.fields
    ]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}
