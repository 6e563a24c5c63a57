"""Metrics of the registry and of the retrainings, for a Prometheus of this machine."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.servers.seaweedfs import BUCKET
from infra.local.servers.server import Server, answers

PORTS = {"metrics of the registry": 9108}


def metrics(ports: Mapping[str, int], environment: Mapping[str, str], log: Path) -> Server:
    """Returns the server of the metrics.

    Args:
        ports: the port of each name in `PORTS`.
        environment: all of its environment variables, those of a client of the platform.
        log: the file that takes its output.
    """
    port = ports["metrics of the registry"]
    url = f"http://127.0.0.1:{port}/metrics"
    return Server(
        "metrics",
        (
            "python", "-m", "pipelines.cli", "metrics", f"--port={port}",
            f"retrain.records=s3://{BUCKET}/retrain",
        ),
        environment,
        log,
        url,
        answers=lambda: answers(url) == 200,
        after=("TLS",),  # it reads the authority's certificate once
    )  # fmt: skip
