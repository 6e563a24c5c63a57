"""Serves metrics of the registry and of the retrainings to Prometheus (`srmill metrics`)."""

import argparse
import sys
from typing import Any

from pipelines.config.load import load_config
from pipelines.errors import Terminated, UserError

#: The longest pause between two looks, in seconds: a day.
_LONGEST = 86_400


def add_metrics(commands: Any) -> None:
    """Adds `metrics` to the command line."""
    parser = commands.add_parser(
        "metrics",
        help="serve metrics of the registry and the retrainings to Prometheus",
        description="Serves /metrics: the champion of each registered model, and what became of "
        "the retrainings, what they cost, and when one did its work last. What a training does at "
        "the moment, Ray serves itself on each of its nodes. docs/operations.md lists all metrics.",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings, such as mlflow.uri=… and retrain.records=s3://…",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=9108, help="the port, 0 for a free one (default: %(default)d)"
    )
    parser.add_argument(
        "--every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="pause before registry and records are read again (default: %(default)g)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print the metrics and end, as for the textfile collector of node_exporter; ends with "
        "1 if a source does not answer",
    )
    parser.set_defaults(run=_metrics)


def _metrics(parsed: argparse.Namespace) -> int:
    from pipelines.monitoring.exporter import Exporter, sources

    if not 1 <= parsed.every <= _LONGEST:
        raise UserError(f"--every must be 1 to {_LONGEST} seconds.")
    exporter = Exporter(sources(load_config(parsed.settings)))
    if parsed.once:
        exporter.refresh()
        print(exporter.text(), end="")
        return int(bool(exporter.errors))

    def tell(port: int) -> None:
        print(f"Listens at http://{parsed.host}:{port}/metrics", flush=True)

    try:
        exporter.serve(parsed.host, parsed.port, parsed.every, tell)
    except (KeyboardInterrupt, Terminated) as error:
        print("stopped.", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    return 0
