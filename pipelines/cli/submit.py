"""Submits a job to a cluster (`srmill submit`), and shows its log."""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from pipelines.config.load import load_config
from pipelines.errors import Terminated, UserError, redacted
from pipelines.storage.paths import ROOT
from pipelines.triggers.clusters import Cluster, find_cluster
from pipelines.triggers.job_server import JobServer, runtime_env
from pipelines.triggers.logs import follow_log


def add_submit(commands: Any) -> None:
    """Adds `submit` to the command line."""
    parser = commands.add_parser(
        "submit",
        help="submit a job to a cluster",
        description="Submits a job of this checkout to a cluster's job server, shows its log, and "
        "ends with its exit code. It is `ray job submit` with the runtime environment that the "
        "job needs, and prints that command. Ctrl-C leaves the job running.",
    )
    parser.add_argument("job", metavar="JOB", help="the job, such as jobs/stage1.py")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="its settings")
    parser.add_argument(
        "--cluster",
        metavar="NAME",
        help="a cluster of ~/.config/srmill/clusters.yaml, or the address of a job server "
        "(default: $RAY_API_SERVER_ADDRESS)",
    )
    parser.add_argument("--name", metavar="ID", help="the job's name on the server")
    parser.add_argument(
        "--entrypoint-memory",
        metavar="BYTES",
        type=_bytes,
        default=0,
        help="memory that the job reserves on a node, the head or another; it waits while other "
        "jobs have reserved too much (default: 0, which starts it at once on the head)",
    )
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the job's end")
    parser.add_argument(
        "--print", action="store_true", dest="only_print", help="print the command, and end"
    )
    parser.set_defaults(run=_submit)


def _submit(parsed: argparse.Namespace) -> int:
    cluster = find_cluster(parsed.cluster)
    entrypoint = _entrypoint(parsed.job, parsed.settings)
    memory: int = parsed.entrypoint_memory
    print(_command(cluster, entrypoint, parsed.name, memory), flush=True)
    if parsed.only_print:
        return 0
    os.environ |= cluster.environment()
    server = JobServer(cluster.address, _expanded(cluster.ca))
    job = server.submit(entrypoint, parsed.name, cluster.variables, memory)
    waits = f" It starts when a node has {memory:,} unreserved bytes." if memory else ""
    print(f"Submitted {job} to {server.address}.{waits}", flush=True)
    if parsed.no_wait:
        return 0
    try:
        done = follow_log(server.client(), job)
    except (KeyboardInterrupt, Terminated) as error:
        stop = _ray(cluster, "stop", job)
        print(f"\n{job} goes on. This stops it:\n{stop}", flush=True)
        return 143 if isinstance(error, Terminated) else 130
    code = done.driver_exit_code
    print(f"{job} ended as {done.status.value}.")
    return code if code is not None else int(done.status.value != "SUCCEEDED")


def _entrypoint(job: str, settings: list[str]) -> str:
    """Returns the command that runs on the cluster.

    Raises:
        UserError: there is no such job, or a setting is wrong. Nothing was sent.
    """
    path = (ROOT / job).resolve()
    jobs = sorted(each.name for each in (ROOT / "jobs").glob("*.py"))
    if path.parent != ROOT / "jobs" or path.name not in jobs:
        raise UserError(f"{job} is no job of {ROOT}: name one of jobs/{{{','.join(jobs)}}}.")
    load_config(settings)
    return shlex.join([f"jobs/{path.name}", *settings])


def _bytes(text: str) -> int:
    # Ray takes a larger number, and reserves nothing.
    if not text.isascii() or not text.isdigit() or int(text) > 10**14:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 2000000000")
    return int(text)


def _command(cluster: Cluster, entrypoint: str, name: str | None, memory: int) -> str:
    """Returns the command of Ray's that does the same."""
    environment = runtime_env(cluster.variables)
    options = ["--submission-id", name] if name else []
    options += [f"--entrypoint-memory={memory}"] if memory else []
    options += ["--working-dir", environment.pop("working_dir")]
    options += ["--runtime-env-json", json.dumps(environment)]
    return f"{_ray(cluster, 'submit', *options)} -- {entrypoint}"


def _ray(cluster: Cluster, command: str, *options: str) -> str:
    """Returns a command of `ray job` for a cluster, with the variables that it needs."""
    shown = [f"{key}={shlex.quote(value)}" for key, value in cluster.environment().items()]
    words = ["ray", "job", command, "--address", redacted(cluster.address)]
    words += ["--verify", str(_expanded(cluster.ca))] if cluster.ca else []
    return " ".join([*shown, shlex.join([*words, *options])])


def _expanded(path: str | None) -> str | None:
    return path and str(Path(path).expanduser())
