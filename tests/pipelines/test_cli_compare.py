"""`srmill compare`, with models that ship, registered ones, and real photos."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.config.load import load_config
from pipelines.config.reference import SHIPPED, ModelReference
from pipelines.data.sources import SAMPLE
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.pictures import Pixels
from pipelines.models.bundle import load_bundle, seal
from pipelines.registry import register
from srmodels.metrics import psnr_rgb
from srmodels.metrics.niqe import NIQE
from tests.conftest import SMALL, needs_weights
from tests.pipelines.test_cli import photo, srmill
from tests.support.browser import browser, screen  # noqa: F401
from tests.support.bundles import make_bundle


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def holiday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two real photos as people would upscale them."""
    folder = tmp_path_factory.mktemp("holiday")
    for name, size in (("oakland-zoo-otters", (170, 96)), ("tea-gardens", (100, 66))):
        with Image.open(SAMPLE / f"budgie_{name}.jpg") as image:
            image.resize(size, Image.Resampling.LANCZOS).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle")).path


def give_other_weights(bundle: Path) -> None:
    facts, file = load_bundle(bundle).facts, bundle / "model.safetensors"
    save_file({name: weight * 1.01 for name, weight in load_file(file).items()}, file)
    seal(bundle, facts)


def write_doubling_network(path: Path) -> None:
    """Writes an ONNX file that enlarges by two, as `jobs/export.py` would."""
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, side, side])
              for name, side in (("x_l", 16), ("x_h", 32))]  # fmt: skip
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0])
    node = helper.make_node("Resize", ["x_l", "", "scales"], ["x_h"], mode="nearest")
    graph = helper.make_graph([node], "double", shapes[:1], shapes[1:], [scales])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def decoded(file: Path | BytesIO) -> Pixels:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def results(folder: Path) -> Any:
    return json.loads((folder / "compare.json").read_text())


def shown(folder: Path) -> dict[str, Pixels]:
    """The pictures of a page, by their alternative texts."""
    html = (folder / "compare.html").read_text()
    found = re.findall(r'src="data:image/webp;base64,([^"]+)" alt="([^"]+)"', html)
    pictures = {alt: decoded(BytesIO(base64.b64decode(data))) for data, alt in found}
    assert len(pictures) == len(found)
    return pictures


def test_models_that_ship_are_shown_beside_each_other_on_real_photos(
    tmp_path: Path, holiday: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("edge_sd_sr_tiny", "rdsr", "bicubic")
    assert srmill("compare", *models, holiday, "--output", "out") == 0
    assert f"Page: {tmp_path / 'out' / 'compare.html'}\n" in capsys.readouterr().out
    found, html = results(tmp_path / "out"), (tmp_path / "out" / "compare.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "http" not in html

    digests = [load_bundle(SHIPPED / model).facts.weights_sha256 for model in models[:2]]
    for subject, name, digest in zip(found["models"], models, [*digests, None], strict=True):
        assert (subject["reference"], subject["digest"]) == (name, digest)
        assert name in html
        assert digest is None or f'<code title="{digest}">{digest[:12]}</code>' in html
    assert "4.27 M" in html

    methods = {name: open_method(ModelReference.parse(name), load_config([])) for name in models}
    pictures = shown(tmp_path / "out")
    for look in found["looks"]:
        lr = decoded(holiday / look["photo"])
        assert (look["width"], look["height"]) == (lr.shape[1], lr.shape[0])
        whole = {name: method(lr) for name, method in methods.items()}
        for pair in look["distances"]:
            psnr = psnr_rgb(whole[pair["first"]], whole[pair["second"]], 0)
            assert pair["psnr"] == pytest.approx(psnr)
            assert f"{psnr:.2f} dB" in html
        parts = {alt.rpartition(": ")[0] for alt in pictures if alt.startswith(look["photo"])}
        assert 1 <= len(parts) <= 3
        for part in parts:
            place = {
                kind: find(pictures[f"{part}: upscaled by {kind}"], picture)
                for kind, picture in whole.items()
            }
            # Each is a part of the picture that the model makes, and all are the same part.
            assert len(set(place.values())) == 1
            assert None not in place.values()
            assert f"{part}: its pixels enlarged" in pictures


def find(part: Pixels, picture: Pixels) -> tuple[int, int] | None:
    """The row and column at which a part is found in a picture, on the page's grid."""
    height, width = part.shape[:2]
    for top in range(0, picture.shape[0] - height + 1, 64):
        for left in range(0, picture.shape[1] - width + 1, 64):
            if np.array_equal(picture[top : top + height, left : left + width], part):
                return top, left
    return None


def test_niqe_is_told_for_photos_that_are_large_enough(
    tmp_path: Path, bundle: Path, holiday: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_weights()
    small = photo(tmp_path / "small.png", (30, 30))
    inputs = ("bicubic", "lanczos", holiday / "oakland-zoo-otters.png", small)
    assert srmill("compare", *inputs, "--output", "out") == 0
    html, (large, tiny) = (
        (tmp_path / "out" / "compare.html").read_text(),
        results(tmp_path / "out")["looks"],
    )
    lr = decoded(holiday / "oakland-zoo-otters.png")
    for name in ("bicubic", "lanczos"):
        enlarged = open_method(ModelReference.parse(name), load_config([]))(lr)
        assert large["niqe"][name] == pytest.approx(NIQE()(enlarged))
        assert f"<td>{large['niqe'][name]:.2f}</td>" in html
        assert tiny["niqe"][name] is None
    reason = "small.png has no NIQE: an image of 120x120 px is too small for NIQE"
    assert reason in html
    assert f"note: {reason}" in capsys.readouterr().err


def test_without_its_weights_the_page_says_why_niqe_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert srmill("compare", "bicubic", "lanczos", photo(tmp_path / "a.png")) == 0
    page = tmp_path / "home" / "work" / "compare" / "compare.html"
    assert "Without NIQE, since its weights are not at hand" in page.read_text()
    assert results(page.parent)["niqe_protocol"] is None


def test_the_versions_behind_aliases_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, psnr in (("first", 30.0), ("second", 31.0)):
        bundle = make_bundle(tmp_path / name, psnr=psnr)
        if name == "second":
            give_other_weights(bundle.path)
        register.run(load_config([f"recipe={SMALL}", f"bundle={bundle.path}", "mlflow.model=m"]))
    champion, previous = "models:/m@champion", "models:/m@previous"
    options = (photo(tmp_path / "a.png"), "--output", "out")
    assert srmill("compare", champion, previous, *options) == 0
    models = results(tmp_path / "out")["models"]
    assert [model["version"] for model in models] == ["models:/m/2", "models:/m/1"]
    assert models[0]["digest"] != models[1]["digest"]
    assert "<td>models:/m/2</td>" in (tmp_path / "out" / "compare.html").read_text()

    # Of one version under two names there is nothing to compare.
    before = (tmp_path / "out" / "compare.html").read_bytes()
    assert srmill("compare", champion, "models:/m/2", *options) == 2
    assert (
        f"'{champion}' and 'models:/m/2' are the same model (models:/m/2): leave one of them out."
        in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "compare.html").read_bytes() == before


def test_of_a_large_photo_a_part_is_shown_and_all_of_it_saved_on_request(
    tmp_path: Path, bundle: Path
) -> None:
    large = photo(tmp_path / "large.png", (120, 80), mode="RGBA")
    inputs = ("compare", bundle, "bicubic", large, "--part", 64, "--output", "out", "--save")
    assert srmill(*inputs) == 0
    (look,) = results(tmp_path / "out")["looks"]
    left, top, width, height = look["part"]
    assert (width, height) == (64, 64)
    assert 0 <= left <= 56
    assert 0 <= top <= 16
    html = (tmp_path / "out" / "compare.html").read_text()
    assert "large.png, 64x64 of 120x80 px" in html
    (picture,) = {p.shape for p in shown(tmp_path / "out").values()}
    assert picture == (256, 256, 3)

    saved = tmp_path / "out" / "pictures" / "large.png"
    assert sorted(path.name for path in saved.iterdir()) == [
        f"1-{bundle.name}.png",
        "2-bicubic.png",
    ]
    assert srmill("upscale", large, "by_upscale.png", "--model", bundle) == 0
    assert (saved / f"1-{bundle.name}.png").read_bytes() == Path("by_upscale.png").read_bytes()
    assert decoded(saved / "2-bicubic.png").shape == (320, 480, 3)

    # Without --save, the pictures of an earlier comparison go with it.
    assert srmill(*inputs[:-1]) == 0
    assert not saved.exists()


def test_the_photos_on_which_models_differ_most_are_shown(tmp_path: Path) -> None:
    for name, contrast in (("flat", 2), ("soft", 20), ("hard", 250)):
        noise = np.random.default_rng(0).integers(0, contrast, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise if name != "flat" else noise * 0 + 9).save(tmp_path / f"{name}.png")
    names = [f"{name}.png" for name in ("flat", "soft", "hard")]
    assert srmill("compare", "bicubic", "lanczos", *names, "--show", 2, "--output", "out") == 0
    found = results(tmp_path / "out")
    assert [look["photo"] for look in found["looks"]] == names
    assert found["looks"][0]["distances"][0]["psnr"] is None
    alts = list(shown(tmp_path / "out"))
    assert [alts[0].partition(",")[0], alts[-1].partition(",")[0]] == ["hard.png", "soft.png"]
    html = (tmp_path / "out" / "compare.html").read_text()
    assert "<td>1 of 3</td>" in html
    assert "<td>flat.png</td><td>30x20 px</td>" in html
    assert "The 2 photos whose pictures are furthest apart; the table below has all." in html


def test_a_bad_photo_is_named_and_the_others_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("not a picture")
    photo(tmp_path / "dot.png", (2, 2))
    names = ("good.png", "bad.jpg", "dot.png")
    assert srmill("compare", "bicubic", "lanczos", *names, "--output", "out") == 1
    assert list(results(tmp_path / "out")["skipped"]) == ["bad.jpg", "dot.png"]
    said, html = capsys.readouterr().err, (tmp_path / "out" / "compare.html").read_text()
    for reason in ("bad.jpg cannot be read as a photo", "dot.png is too small to compare"):
        assert f"skipped: {reason}" in said
        assert f"Skipped: {reason}" in html
    assert srmill("compare", "bicubic", "lanczos", "bad.jpg", "--output", "none") == 2
    assert "error: bad.jpg cannot be read as a photo" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bicubic", "lanczos"], "there are no photos to compare the models on"),
        (["bicubic", "lanczos", "no.png"], "no.png does not exist"),
        (["bicubic", "lanczos", "empty"], "empty holds neither photos nor a bundle (bundle.json)"),
        (["bicubic", "lanczos", "a.png", "b/a.png"], "a.png and b/a.png have the same name"),
        (["bicubic", "a.png"], "a comparison needs two models or more"),
        (["bicubic", "bicubic", "a.png"], "'bicubic' is named twice: leave it out once"),
        (["bicubic", "nosuch", "a.png"], "there is no model 'nosuch'"),
        (["bicubic", "models:/no@champion", "a.png"], "there is no model registry"),
        (["bicubic", "models:/no", "a.png"], "is not of the form models:/NAME@ALIAS"),
        (["bicubic", "run:no", "a.png"], "there is no run behind 'run:no'"),
        (["rdsr", "onnx:double.onnx", "a.png"], "enlarges by 4 and 'onnx:double.onnx' by 2"),
        (["bicubic", "lanczos", "a.png", "--part", "4"], "--part must be 16 to 65536 px, not 4"),
        (["bicubic", "lanczos", "a.png", "--show", "0"], "--show must be 1 to 1000, not 0"),
        (["bicubic", "lanczos", "a.png", "--output", "b"], "holds files that SRMill did not write"),
        (["bicubic", "lanczos", "a.png", "--max-megapixels", "0"], "--max-megapixels must be more"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "b").mkdir()
    photo(tmp_path / "a.png")
    photo(tmp_path / "b" / "a.png")
    write_doubling_network(tmp_path / "double.onnx")
    assert srmill("compare", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.png", "b", "double.onnx", "empty"}


def test_interpolations_take_the_scale_of_the_network(tmp_path: Path) -> None:
    write_doubling_network(tmp_path / "double.onnx")
    model = f"onnx:{tmp_path / 'double.onnx'}"
    assert srmill("compare", model, "bicubic", photo(tmp_path / "a.png"), "--output", "out") == 0
    assert results(tmp_path / "out")["scale"] == 2


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_in_a_browser_two_models_are_compared_by_keyboard(
    tmp_path: Path,
    browser: Any,  # noqa: F811
    holiday: Path,
    width: int,
    scheme: str,
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    model = SHIPPED / "rdsr"
    assert srmill("compare", "bicubic", "lanczos", model, holiday, "--output", "out") == 0
    screen(browser, width, 900, scheme)
    browser.get((tmp_path / "out" / "compare.html").as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    images = browser.find_elements(By.CSS_SELECTOR, ".pictures img")
    assert all(image.get_property("naturalWidth") for image in images)
    assert all(image.get_attribute("alt") for image in images)

    viewer = browser.find_element(By.CSS_SELECTOR, ".viewer")
    under, over = viewer.find_elements(By.TAG_NAME, "img")
    assert under.get_attribute("alt").endswith("upscaled by bicubic")
    assert over.get_attribute("alt").endswith("upscaled by lanczos")
    slider = viewer.find_element(By.TAG_NAME, "input")
    slider.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "2 % bicubic, the rest lanczos"
    cut = "return document.querySelector('.screen').style.getPropertyValue('--cut')"
    assert browser.execute_script(cut) == "2%"
    right = viewer.find_elements(By.TAG_NAME, "select")[1]
    right.send_keys(str(model)[:6])
    assert over.get_attribute("alt").endswith(f"upscaled by {model}")
    assert slider.get_attribute("aria-valuetext") == f"2 % bicubic, the rest {model}"
    assert browser.get_log("browser") == []
