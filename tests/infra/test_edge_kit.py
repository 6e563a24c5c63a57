"""infra/edge: what an app does with a bundle, without SRMill and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.reference import SHIPPED
from pipelines.export import export
from tests.conftest import ROOT
from tests.pipelines.test_cli import photo, srmill

PROGRAM = ROOT / "infra" / "edge" / "upscale.py"
#: Runs the program where torch and SRMill cannot be imported.
ALONE = (
    "import runpy, sys; sys.modules.update(torch=None, pipelines=None, srmodels=None); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    settings = ["export.tile=32", "export.latency_runs=1", f"output={folder}"]
    return Path(export.run(load_config(["model=rdsr", *settings])))


def upscale(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, PROGRAM, *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("size", [(75, 40), (32, 32), (20, 50), (1, 1)])
def test_it_makes_the_picture_that_srmill_makes(
    size: tuple[int, int], bundle: Path, tmp_path: Path
) -> None:
    source, ours, theirs = photo(tmp_path / "a.png", size), tmp_path / "b.png", tmp_path / "c.png"
    options = ("--model", bundle, "--runtime", "onnxruntime")
    assert srmill("upscale", source, ours, *options) == 0
    done = upscale(bundle, source, theirs)
    assert done.returncode == 0, done.stderr
    with Image.open(ours) as one, Image.open(theirs) as other:
        assert one.size == other.size == (4 * size[0], 4 * size[1])
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_int8_is_as_exact_as_on_a_phone(tmp_path: Path) -> None:
    bundle, source = SHIPPED / "light_mobile", photo(tmp_path / "a.png", (75, 40))
    ours, theirs = tmp_path / "b.png", tmp_path / "c.png"
    options = ("--model", bundle, "--runtime", "onnxruntime", "--precision", "int8")
    assert srmill("upscale", source, ours, *options) == 0
    done = upscale(bundle, source, theirs, "--target", "onnx_int8")
    assert done.returncode == 0, done.stderr
    with Image.open(ours) as one, Image.open(theirs) as other:
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_it_runs_no_bundle_that_is_damaged(bundle: Path, tmp_path: Path) -> None:
    assert srmill("fetch", bundle, tmp_path / "bundle") == 0
    source, result = photo(tmp_path / "a.png"), tmp_path / "b.png"
    artifact = tmp_path / "bundle" / "edge" / "model_fp32.onnx"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    done = upscale(tmp_path / "bundle", source, result)
    assert done.returncode == 1
    assert done.stderr == (
        "error: edge/model_fp32.onnx is missing or damaged: fetch the bundle again.\n"
    )
    assert not result.exists()


def test_it_reads_nothing_outside_the_bundle(bundle: Path, tmp_path: Path) -> None:
    assert srmill("fetch", bundle, tmp_path / "bundle") == 0
    facts = tmp_path / "bundle" / "bundle.json"
    facts.write_text(facts.read_text().replace('"images.csv"', '"../images.csv"'))
    done = upscale(tmp_path / "bundle", photo(tmp_path / "a.png"), tmp_path / "b.png")
    assert done.returncode == 1
    assert "names ../images.csv, which lies outside the bundle" in done.stderr


def test_it_says_which_artifacts_there_are(bundle: Path, tmp_path: Path) -> None:
    done = upscale(bundle, photo(tmp_path / "a.png"), tmp_path / "b.png", "--target", "onnx_int8")
    assert done.returncode == 1
    assert done.stderr == "error: the bundle has no onnx_int8; it has onnx_fp32.\n"


@pytest.mark.parametrize(
    ("target", "others"), [("onnx_fp32_parts", ["edge/model_fp32_unet.onnx"]), ("ncnn_fp16", [])]
)
def test_it_refuses_what_is_not_one_onnx_graph(
    target: str, others: list[str], bundle: Path, tmp_path: Path
) -> None:
    assert srmill("fetch", bundle, tmp_path / "bundle") == 0
    path = tmp_path / "bundle" / "bundle.json"
    facts = json.loads(path.read_text())
    facts["edge"][target] = facts["edge"].pop("onnx_fp32") | {"others": others}
    path.write_text(json.dumps(facts))
    source, result = photo(tmp_path / "a.png"), tmp_path / "b.png"
    done = upscale(tmp_path / "bundle", source, result, "--target", target)
    assert done.returncode == 1
    assert done.stderr == f"error: {target} is not one ONNX graph: name another artifact.\n"
    assert not result.exists()
