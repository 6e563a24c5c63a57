"""`bundle.json` and `results.json` as types."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.models.bundle import FILE_NAME, Bundle, load_bundle, seal
from pipelines.models.facts import BundleFacts, EdgeArtifact, QualityLoss, TensorSpec
from pipelines.storage.digests import digest
from pipelines.storage.typed import read_typed, to_dict, to_json
from srmodels.edge.target import Parity
from srmodels.latency import Latency
from tests.support.bundles import make_bundle

ARTIFACT = EdgeArtifact(
    file="edge/model.onnx",
    input=TensorSpec("x_l", (1, 3, 32, 32)),
    output=TensorSpec("x_h", (1, 3, 128, 128)),
    parity=Parity(max_error=1e-6, sqnr_db=float("inf"), num_images=4),
    quality=QualityLoss("psnr_y_crop4", 0.02, -0.01, 0.05, 16, "validation tiles"),
    latency=Latency(32, 1.5, 1.0, 2.0, runs=10, threads=2),
    latency_ratio=0.5,
    machine="a machine",
    made={"onnx": "1.0"},
    other_losses=[QualityLoss("lpips_alex", 0.0012, None, None, 16, "validation tiles")],
)


def with_files(folder: Path, *names: str) -> Bundle:
    """Makes a bundle that has these files, too."""
    bundle = make_bundle(folder)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(number + 1))
    seal(folder, bundle.facts)
    return load_bundle(folder)


def test_facts_come_back_as_they_were(tmp_path: Path) -> None:
    bundle = with_files(tmp_path, ARTIFACT.file)
    facts = replace(bundle.facts, artifacts=("onnx_fp32",), edge={"onnx_fp32": ARTIFACT})
    assert read_typed(BundleFacts, to_json(facts), "bundle.json") == facts
    seal(tmp_path, facts)
    assert load_bundle(tmp_path).facts == facts
    assert load_bundle(tmp_path).digest != bundle.digest


def test_sealing_again_changes_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    seal(tmp_path, bundle.facts)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert load_bundle(tmp_path).digest == bundle.digest


def test_a_wrong_fact_is_named(tmp_path: Path) -> None:
    facts = to_dict(make_bundle(tmp_path).facts)
    facts["metrics"]["benchmarks"]["validation"]["model"]["psnr_y_crop4"] = "30"
    (tmp_path / FILE_NAME).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"is damaged \(metrics\.benchmarks\.validation\.model\."):
        load_bundle(tmp_path)


def test_a_bundle_of_an_older_version_is_refused(tmp_path: Path) -> None:
    facts = make_bundle(tmp_path).facts
    for version in (1, 2, 3):
        old = {"schema_version": version} | asdict(facts)
        (tmp_path / FILE_NAME).write_text(json.dumps(old))
        with pytest.raises(UserError, match=f"has schema version {version}, this SRMill reads 4: "):
            load_bundle(tmp_path)


def test_provenance_is_what_the_facts_say(tmp_path: Path) -> None:
    facts = replace(make_bundle(tmp_path).facts, precision="fp16", parent_version="models:/small/7")
    origin = facts.provenance
    assert (origin.manifest, origin.git_commit, origin.step) == ("m", "c", None)
    assert (origin.precision, origin.parent_version) == ("fp16", "models:/small/7")


def test_an_artifact_is_all_of_its_files(tmp_path: Path) -> None:
    package = replace(ARTIFACT, file="edge/m.pkg/main", others=["edge/m.pkg/deep/weights"])
    made = with_files(tmp_path, ARTIFACT.file, package.file, *package.others)
    facts = replace(made.facts, edge={"onnx_fp32": ARTIFACT, "coreml_fp16": package})
    assert [file.bytes for file in facts.files_of("coreml_fp16")] == [2, 3]
    assert facts.digest_of("onnx_fp32") == facts.files[ARTIFACT.file].sha256
    digests = {facts.digest_of("coreml_fp16")}
    for name in (package.file, *package.others):
        other = replace(facts.files[name], sha256="0" * 64)
        digests.add(replace(facts, files=facts.files | {name: other}).digest_of("coreml_fp16"))
    assert len(digests) == 3


@pytest.mark.parametrize("change", [{"file": "edge/no.onnx"}, {"others": ["edge/no.onnx"]}])
def test_an_artifact_whose_files_are_not_listed_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    made = with_files(tmp_path, ARTIFACT.file)
    seal(tmp_path, replace(made.facts, edge={"onnx_fp32": replace(ARTIFACT, **change)}))
    with pytest.raises(UserError, match=r"lists no edge/no\.onnx"):
        load_bundle(tmp_path)


def test_a_bundle_of_before_an_artifact_listed_its_files_keeps_its_digest(tmp_path: Path) -> None:
    made = with_files(tmp_path, ARTIFACT.file)
    seal(tmp_path, replace(made.facts, edge={"onnx_fp32": ARTIFACT}))
    bundle = load_bundle(tmp_path)
    written = json.loads((tmp_path / FILE_NAME).read_text())
    assert "others" not in written["edge"]["onnx_fp32"]
    assert bundle.digest == digest(written)
    several = replace(ARTIFACT, others=[ARTIFACT.file])
    assert to_dict(replace(made.facts, edge={"a": several}))["edge"]["a"]["others"]


def test_ncnns_weights_count_where_others_are_not_listed(tmp_path: Path) -> None:
    artifact = replace(ARTIFACT, file="edge/m.ncnn.param")
    made = with_files(tmp_path, artifact.file, "edge/m.ncnn.bin", "edge/m.ncnn.onnx")
    facts = replace(made.facts, edge={"ncnn_fp16": artifact})
    assert [file.bytes for file in facts.files_of("ncnn_fp16")] == [1, 2]
