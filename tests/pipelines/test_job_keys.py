"""A job's `--help` lists every key that one of its errors names."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest

from tests.conftest import ROOT
from tests.support.jobs import keys_of, takes
from tests.support.remedies import mentioned

JOBS = sorted((ROOT / "jobs").glob("*.py"))
#: Keys of modules that a job imports, in errors that it cannot raise.
ELSEWHERE = {
    # It reads results, and measures nothing; of archives, it reads none.
    "export": {"evaluate.metrics", "gate.benchmark", "gate.digest", "shard.max_unpacked_gib"},
    "register": {"data", "evaluate.preset"},  # it opens no dataset, and takes photos whole
    "retrain": {"model", "stage"},  # it names the model and each stage itself
    "stage1": {"stage"},
    "stage2": {"stage"},
}


@cache
def _graph() -> Any:
    return grimp.build_graph("pipelines", cache_dir=None)


def modules_of(job: Path) -> set[str]:
    """The modules of pipelines/ that a job imports, and those that these import.

    Without the configuration's own, whose errors name a key that was given.
    """
    found = set()
    for node in ast.walk(ast.parse(job.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pipelines"):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in _graph().modules else str(node.module))
    found |= {other for module in found for other in _graph().find_upstream_modules(module)}
    return {module for module in found if not module.startswith("pipelines.config")}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: str(job.stem))
def test_help_lists_the_keys_that_errors_name(job: Path) -> None:
    named = {key: text for module in modules_of(job) for key, text in mentioned(module).items()}
    assert {"mlflow.uri", "run.storage", "stream.cache_mib", "train.crop"} & set(named)
    unlisted = {key: text for key, text in named.items() if not takes(keys_of(job), key)}
    assert set(unlisted) == ELSEWHERE.get(job.stem, set()), unlisted


@pytest.mark.parametrize(
    ("job", "keys"),
    [
        ("evaluate", {"export.weights", "export.tile", "shard.max_megapixels"}),
        ("export", {"benchmark"}),  # the evidence is that of these sets
        ("register", {"stream.retry_seconds"}),  # a bundle may lie in a bucket
        ("retrain", {"benchmark", "preview"}),
        ("shard", {"train.crop"}),  # of the preview's pairs
        ("train", {"shard.tile", "shard.val_tile", "export.tile"}),
    ],
)
def test_help_lists_keys_of_other_rooms_that_a_job_reads(job: str, keys: set[str]) -> None:
    listed = keys_of(ROOT / "jobs" / f"{job}.py")
    assert [key for key in keys if not takes(listed, key)] == []
