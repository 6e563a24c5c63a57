"""The Ray head: cluster, job server and dashboard."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.servers.server import Server, answers
from pipelines.ray_auth import private_environment

PORTS = {
    "Ray": 6379, "dashboard": 8265,
    # 10002 to 19999 are for Ray's workers. From 32768 on, any connection may take a port first.
    "client": 20001, "agent": 21001, "agent grpc": 22001, "metrics": 23001, "runtime": 24001,
}  # fmt: skip

#: Seconds that a job may wait for the memory that it asks for. Ray itself ends it after 15 minutes.
PENDING_S = 86400


def ray_head(
    ports: Mapping[str, int], token: Path, environment: Mapping[str, str], log: Path
) -> Server:
    """Returns the Ray head.

    Args:
        ports: the port of each name in `PORTS`.
        token: the file with the token that it asks for.
        environment: its environment, which it hands on to the jobs.
        log: the file that takes its output.
    """
    url = f"http://127.0.0.1:{ports['dashboard']}"

    def ready() -> bool:
        shown = {"Authorization": f"Bearer {token.read_text()}"}
        return answers(f"{url}/api/version", shown) == 200

    command = (
        "ray", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={ports['Ray']}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}",
        f"--ray-client-server-port={ports['client']}",
        f"--dashboard-agent-listen-port={ports['agent']}",
        f"--dashboard-agent-grpc-port={ports['agent grpc']}",
        f"--metrics-export-port={ports['metrics']}",
        f"--runtime-env-agent-port={ports['runtime']}",
    )  # fmt: skip
    own = private_environment(token) | {"RAY_JOB_START_TIMEOUT_SECONDS": str(PENDING_S)}
    return Server("Ray", command, dict(environment) | own, log, url, ready)
