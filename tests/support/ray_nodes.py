"""A Ray cluster of several nodes on this machine, any of which can be lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from pipelines.ray_auth import read_again

RAY = Path(sys.executable).parent / "ray"


class Nodes:
    """A head without CPUs, where drivers run, and nodes of one CPU each, which tests add and kill.

    All of it ends with the process that made it, even if that is killed.
    """

    def __init__(self) -> None:
        # Ray may have been imported before the session had its token.
        read_again()
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=True
        )

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, count: int) -> None:
        """Adds nodes whose workers have the environment of this moment."""
        for _ in range(count):
            self._cluster.add_node(num_cpus=1)
        self._cluster.wait_for_nodes()

    def workers(self) -> list[psutil.Process]:
        """Returns the training processes, on all nodes."""
        return [worker for node in self._nodes() for worker in _workers(node)]

    def node_of(self, worker: psutil.Process) -> Any:
        """Returns the node that a training process runs on."""
        [node] = [node for node in self._nodes() if worker in _workers(node)]
        return node

    def kill(self, node: Any) -> None:
        """Kills a node with all that runs there."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """Tells Ray that a node will be taken away after `seconds`."""
        subprocess.run(
            [
                RAY, "drain-node", f"--address={self.address}",
                f"--node-id={node.node_id}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the spot market",
                f"--deadline-remaining-seconds={seconds}",
            ],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip

    def clear(self) -> None:
        """Removes all nodes but the head."""
        for node in self._nodes():
            self.kill(node)

    def shutdown(self) -> None:
        self._cluster.shutdown()

    def _nodes(self) -> list[Any]:
        return list(self._cluster.worker_nodes)


def _workers(node: Any) -> list[psutil.Process]:
    try:
        return training_workers(psutil.Process(node.all_processes["raylet"][0].process.pid))
    except psutil.NoSuchProcess:  # a drained node ends by itself
        return []


def training_workers(parent: psutil.Process) -> list[psutil.Process]:
    """Returns the training processes below another.

    Raises:
        psutil.NoSuchProcess: that one has ended.
    """
    children = parent.children(recursive=True)
    return [child for child in children if _title(child).startswith("ray::RayTrainWorker")]


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""
