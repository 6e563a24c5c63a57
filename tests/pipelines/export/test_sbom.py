"""The bill of materials of a bundle."""

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from pipelines.export import sbom
from pipelines.export.sbom import bill_of_materials
from tests.support.bundles import make_bundle


def test_it_names_what_the_bundle_was_made_with(tmp_path: Path) -> None:
    facts = make_bundle(tmp_path / "bundle").facts
    bill = json.loads(bill_of_materials(facts))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", facts.name)
    assert model["version"] == facts.weights_sha256
    found = {part["name"]: part for part in bill["components"]}
    assert found.keys() >= {"srmill", "torch", "ray", "onnxruntime", "mlflow", "numpy"}
    assert "pytest" not in found  # of an extra
    for name in ("torch", "numpy"):
        version = metadata.version(name)
        assert found[name]["version"] == version
        assert found[name]["purl"] == f"pkg:pypi/{name}@{version}".replace("+", "%2B")
    references = [part["bom-ref"] for part in (model, *bill["components"])]
    assert len(set(references)) == len(references)


def test_equal_bundles_have_equal_bills_and_tools_of_artifacts_are_named(tmp_path: Path) -> None:
    facts = make_bundle(tmp_path / "bundle").facts
    assert bill_of_materials(facts) == bill_of_materials(facts)
    assert "pytest" not in bill_of_materials(facts)

    class Artifact:
        made = {"pytest": "1", "calibration": "128 images"}  # noqa: RUF012

    with_tool = bill_of_materials(replace(facts, edge={"x": Artifact()}))  # type: ignore[dict-item]
    assert metadata.version("pytest") in with_tool
    assert "calibration" not in with_tool


def test_where_srmill_is_not_installed_all_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sbom, "_PROJECT", "srmill-that-nobody-installed")
    found = bill_of_materials(make_bundle(tmp_path / "bundle").facts)
    assert {"torch", "pytest"} < {part["name"] for part in json.loads(found)["components"]}
