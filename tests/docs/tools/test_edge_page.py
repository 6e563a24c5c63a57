"""The tables of docs/edge.md are what the command makes of the stored results."""

from dataclasses import replace
from pathlib import Path

from docs.tools.edge_page import (
    BEGIN,
    DELEGATES_BEGIN,
    DELEGATES_END,
    END,
    PAGE,
    STORED,
    page,
)
from pipelines.models.facts import EdgeArtifact, FileFacts, QualityLoss, TensorSpec
from pipelines.storage.typed import to_json
from srmodels.edge.target import Parity
from srmodels.latency import Latency
from tests.support.bundles import make_bundle
from tests.support.results import BENCHMARK, make_results


def test_the_tables_were_written_by_the_command() -> None:
    assert PAGE.read_text() == page(PAGE.read_text(), STORED), "run `make results`"


def make_artifact(file: str, **made: str) -> EdgeArtifact:
    tensor = TensorSpec("x", (1, 3, 128, 128))
    return EdgeArtifact(
        file=file,
        input=tensor,
        output=tensor,
        parity=Parity(0.0123, 40.0, 4),
        quality=QualityLoss("psnr_y_crop4", 0.05, 0.01, 0.09, 16, "crops"),
        latency=Latency(128, 50.0, 45.0, 60.0, 10, 2, peak_bytes=30 << 20),
        latency_ratio=0.4,
        machine="x86_64, Linux",
        made=made,
        other_losses=[QualityLoss("lpips_alex", 0.0042, None, None, 16, "crops")],
    )


def test_a_bundle_and_its_scores_become_a_table(tmp_path: Path) -> None:
    facts = make_bundle(tmp_path / "bundle").facts
    edge = {
        "coreml_fp16": replace(
            make_artifact("edge/m.mlpackage/Manifest.json"), others=["edge/m.mlpackage/weight.bin"]
        ),
        "ncnn_fp16": make_artifact("edge/model_fp16.ncnn.param"),
        "ncnn_int8": make_artifact("edge/model_int8.ncnn.param", **{"layers in fp16": "a"}),
        "onnx_int8": make_artifact("edge/model_int8.onnx", **{"layers in fp32": "a, b"}),
        "qnn_sm8650": replace(
            make_artifact("edge/model_sm8650.onnx"), latency=None, latency_ratio=None
        ),
    }
    sizes = {
        "edge/m.mlpackage/Manifest.json": 1 << 20,
        "edge/m.mlpackage/weight.bin": 4 << 20,
        "edge/model_int8.ncnn.param": 1 << 20,
        "edge/model_fp16.ncnn.param": 1 << 20,
        "edge/model_fp16.ncnn.bin": 2 << 20,
        "edge/model_int8.onnx": 4 << 20,
        "edge/model_int8.pte": 8 << 20,
        "edge/model_sm8650.onnx": 1 << 20,
    }
    files = {name: FileFacts("0" * 64, size) for name, size in sizes.items()}
    left_out = {"onnx_fp16": "onnx_fp16 loses 3 dB."}
    facts = replace(facts, name="tiny", edge=edge, files=files, left_out=left_out)
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / "tiny.json").write_bytes(to_json(facts))
    methods = {"tiny": 30.0, "artifact:b": 29.9, "bicubic": 28.0}
    titles = {"tiny": "model", "artifact:b": "tiny (onnx_int8)", "bicubic": "bicubic"}
    summary = {method: {"psnr_y_crop4": score} for method, score in methods.items()}
    results = make_results(
        model="tiny", titles=titles, benchmarks={"Set5": replace(BENCHMARK, summary=summary)}
    )
    (stored / "tiny-scores.json").write_bytes(to_json(results))
    written = page(f"before\n{BEGIN}\nold\n{END}\nafter", stored)
    assert written.startswith(f"before\n{BEGIN}\n")
    assert written.endswith(f"{END}\nafter")
    assert "old" not in written
    rows = {line.split("`")[1]: line for line in written.splitlines() if line.startswith("| `")}
    assert rows["ncnn_fp16"].split(" | ")[1:5] == [
        "3.0",
        "1.2e-02",
        "40.0 dB",
        "0.050 (0.010 … 0.090)",
    ]
    assert rows["ncnn_fp16"].split(" | ")[5:] == ["0.0042", "–", "50.0", "0.40", "30", "– |"]
    assert rows["coreml_fp16"].split(" | ")[1] == "5.0"
    assert rows["ncnn_int8"].split(" | ")[-1] == "1 |"
    assert rows["onnx_int8"].split(" | ")[1] == "4.0"
    assert rows["onnx_int8"].split(" | ")[5:] == ["0.0042", "0.100", "50.0", "0.40", "30", "2 |"]
    assert rows["qnn_sm8650"].split(" | ")[5:] == ["0.0042", "–", "–", "–", "–", "– |"]
    assert "Left out: onnx_fp16 loses 3 dB." in written


def test_what_delegates_take_becomes_a_table(tmp_path: Path) -> None:
    edge = {
        "onnx_fp32": make_artifact("a.onnx", NNAPI="all 9 nodes", torch="2"),
        "ncnn_fp16": make_artifact("b.param", Vulkan="all 7 nodes"),
        "litert_fp32": make_artifact("c.tflite"),
    }
    files = {artifact.file: FileFacts("0" * 64, 1) for artifact in edge.values()}
    facts = replace(make_bundle(tmp_path / "bundle").facts, name="tiny", edge=edge, files=files)
    (tmp_path / "tiny.json").write_bytes(to_json(facts))
    written = page(f"{DELEGATES_BEGIN}\n{DELEGATES_END}\n", tmp_path).splitlines()
    assert written[2:6] == [
        "| | | NNAPI | Vulkan |",
        "|---|---|---|---|",
        "| tiny | `onnx_fp32` | all 9 nodes | – |",
        "| tiny | `ncnn_fp16` | – | all 7 nodes |",
    ]
