"""The software bill of materials of a bundle: what it was made with, as CycloneDX reads it."""

import json
import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from pipelines import __version__
from pipelines.models.facts import BundleFacts

SBOM = "sbom.cdx.json"
_PROJECT = "srmill"


def bill_of_materials(facts: BundleFacts) -> str:
    """Returns the bill as JSON (CycloneDX 1.6, ECMA-424).

    It names the model, SRMill, the packages that SRMill needs, and the tools that made the
    artifacts, with the versions that are installed here. It holds no time, so that equal bundles
    have equal bills.
    """
    tools = {name for artifact in facts.edge.values() for name in artifact.made}
    packages = sorted({*_required(), *tools} & {*_installed()})
    return json.dumps(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": _model(facts)},
            "components": [_library(_PROJECT, __version__), *map(_package, packages)],
        },
        indent=1,
    )


def _model(facts: BundleFacts) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": facts.name,
        "name": facts.name,
        "version": facts.weights_sha256,
        "description": f"{facts.system}, recipe {facts.recipe}, ×{facts.scale}",
    }


def _package(name: str) -> dict[str, Any]:
    return _library(name, metadata.version(name))


def _library(name: str, version: str) -> dict[str, Any]:
    # A local version, such as +cpu, is written with %2B in a package URL.
    url = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _required() -> Iterable[str]:
    """Yields the names of the packages that SRMill itself needs, without those of its extras.

    Where SRMill runs from a job's working directory and is not installed, nothing lists them: it
    yields all that are installed.
    """
    try:
        requirements = metadata.requires(_PROJECT) or []
    except metadata.PackageNotFoundError:
        yield from _installed()
        return
    for requirement in requirements:
        if "extra ==" not in requirement:
            yield _normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


def _installed() -> Iterable[str]:
    return (_normal(found.metadata["Name"]) for found in metadata.distributions())


def _normal(name: str) -> str:
    """Returns a package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
