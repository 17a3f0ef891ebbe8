"""The native topology: Postgres, Redis and a whole Airflow with two Celery workers, on loopback.

``python -m tests.cluster`` starts it by hand; tests enter ``tests.cluster.topology.run_cluster``.
"""
