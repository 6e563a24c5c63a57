"""A cluster whose nodes come and go, and runs on it; at the end, the table of what was lost."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos import ROWS, SETTINGS, STEPS, NewRun, Outcome, Reference
from tests.support.ray_nodes import Nodes
from tests.support.run import Run


@pytest.fixture(scope="package")
def head() -> Iterator[Nodes]:
    """The cluster without nodes to train on."""
    nodes = Nodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture
def nodes(head: Nodes) -> Iterator[Nodes]:
    """The cluster, to which a test adds its nodes."""
    yield head
    head.clear()


@pytest.fixture(scope="package")
def reference(
    head: Nodes, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    """A run that nobody disturbs; after the last test that is compared with it, the table is
    printed, and written to $SRMILL_CHAOS_TABLE."""
    home = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SRMILL_HOME", str(home))
        head.add(2)
        with Run(head.address, f"data={dataset}", "stage=autoencoder", *SETTINGS) as run:
            outcome = Outcome.of(run)
        head.clear()
    assert [step for step, _ in outcome.losses] == list(range(1, STEPS + 1))
    yield Reference(home, outcome)
    table = "\n".join(ROWS)
    print(f"\n\n{table}")
    if path := os.environ.get("SRMILL_CHAOS_TABLE"):
        Path(path).write_text(f"{table}\n")


@pytest.fixture
def new_run(reference: Reference, nodes: Nodes, dataset: Path) -> Iterator[NewRun]:
    started: list[Run] = []

    def start(*settings: str) -> Run:
        arguments = (f"data={dataset}", "stage=autoencoder", *SETTINGS, *settings)
        started.append(Run(nodes.address, *arguments))
        started[-1].start()
        return started[-1]

    yield start
    for run in started:
        run.kill()
