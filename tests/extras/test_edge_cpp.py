"""infra/edge/cpp: the C++ program, built with ncnn's sources and run on bundles."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.config.load import load_config
from pipelines.export import export
from tests.conftest import ROOT
from tests.pipelines.test_cli import photo, srmill
from tests.pipelines.test_cli_bundles import make_keys

pytestmark = pytest.mark.timeout(3600)  # ncnn is built once, for many kinds of processors

SOURCES = ROOT / "infra" / "edge" / "cpp"
NEEDED = "cmake g++ pkg-config nlohmann-json3-dev libsodium-dev libexif-dev"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pnnx", reason="pip install -e '.[ncnn]'")
    for tool in ("cmake", "g++", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"apt-get install {NEEDED}")
    found = subprocess.run(["pkg-config", "libsodium", "libexif", "nlohmann_json"], check=False)
    if found.returncode:
        pytest.skip(f"apt-get install {NEEDED}")
    folder = tmp_path_factory.mktemp("build")
    for command in (["-S", SOURCES, "-B", folder], ["--build", folder, "--parallel", "2"]):
        done = subprocess.run(
            ["cmake", *map(str, command)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return folder / "upscale"


@pytest.fixture(scope="module")
def bundle(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [
        "export.artifacts=[onnx_fp32,ncnn_fp16]",
        "export.tile=32",
        "export.latency_runs=1",
        f"output={tmp_path_factory.mktemp('kit')}",
    ]
    return Path(export.run(load_config(["model=rdsr", *settings])))


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def difference(one: Path, other: Path) -> np.ndarray:
    with Image.open(one) as first, Image.open(other) as second:
        assert first.size == second.size
        return np.abs(np.asarray(first).astype(int) - np.asarray(second))


@pytest.mark.parametrize("size", [(75, 40), (32, 32), (20, 50), (1, 1)])
def test_it_makes_the_picture_that_srmill_makes(
    size: tuple[int, int], program: Path, bundle: Path, tmp_path: Path
) -> None:
    source, ours, theirs = photo(tmp_path / "a.png", size), tmp_path / "b.png", tmp_path / "c.png"
    assert srmill("upscale", source, ours, "--model", bundle, "--runtime", "ncnn") == 0
    done = run(program, bundle, source, theirs)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    with Image.open(theirs) as image:
        assert image.size == (4 * size[0], 4 * size[1])
    assert difference(ours, theirs).max() <= 1
    assert sorted(tmp_path.iterdir()) == [source, ours, theirs]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_photos_of_other_modes_are_read(
    mode: str, program: Path, bundle: Path, tmp_path: Path
) -> None:
    source, ours, theirs = (
        photo(tmp_path / "a.png", mode=mode),
        tmp_path / "b.png",
        tmp_path / "c.png",
    )
    with Image.open(source) as image:
        image.convert("RGB").save(tmp_path / "rgb.png")
    for given, made in ((source, ours), (tmp_path / "rgb.png", theirs)):
        assert run(program, bundle, given, made).returncode == 0
    assert difference(ours, theirs).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(
    orientation: int, program: Path, bundle: Path, tmp_path: Path
) -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16], pixels[16:, 32:] = (240, 40, 40), (40, 240, 40)  # two corners are marked
    stored, upright = tmp_path / "stored.jpg", tmp_path / "upright.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(stored, exif=exif, quality=100, subsampling=0)
    with Image.open(stored) as image:
        ImageOps.exif_transpose(image).save(upright)
    results = tmp_path / "a.png", tmp_path / "b.png"
    for given, made in zip((stored, upright), results, strict=True):
        assert run(program, bundle, given, made).returncode == 0
    assert difference(*results).mean() < 3  # two libraries decode a JPEG in two ways


def test_a_bundle_can_be_required_to_be_signed(program: Path, own: Path, tmp_path: Path) -> None:
    source, result = photo(tmp_path / "a.png"), tmp_path / "b.png"
    private, public = make_keys(tmp_path)
    _, another = make_keys(tmp_path, "another")

    def refusal(key: Path) -> str:
        done = run(program, own, source, result, "--public-key", key)
        assert done.returncode == 1
        assert not result.exists()
        return done.stderr

    assert refusal(public) == "error: the bundle is not signed: sign it with srmill sign.\n"
    assert srmill("sign", own, "--key", private) == 0
    assert refusal(private) == f"error: {private} is no public ed25519 key in PEM.\n"
    assert refusal(another).startswith("error: the bundle's signature was not made by this key")
    facts = (own / "bundle.json").read_text()
    (own / "bundle.json").write_text(facts + " ")
    assert refusal(public).startswith("error: the bundle's signature was not made by this key")
    (own / "bundle.json").write_text(facts)
    assert run(program, own, source, result, "--public-key", public).returncode == 0
    assert result.exists()


def flip(name: str) -> Callable[[Path], None]:
    def change(own: Path) -> None:
        data = bytearray((own / name).read_bytes())
        data[len(data) // 2] ^= 1
        (own / name).write_bytes(data)

    return change


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(own: Path) -> None:
        text = (own / "bundle.json").read_text()
        assert old in text
        (own / "bundle.json").write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            flip("edge/model_fp16.ncnn.bin"),
            "edge/model_fp16.ncnn.bin is missing or damaged: fetch the bundle again.",
        ),
        (
            lambda own: (own / "images.csv").unlink(),
            "images.csv is missing or damaged: fetch the bundle again.",
        ),
        (
            replace('"images.csv"', '"../images.csv"'),
            "bundle.json names ../images.csv, which lies outside the bundle.",
        ),
        (
            replace('"images.csv"', '"/etc/hostname"'),
            "bundle.json names /etc/hostname, which lies outside the bundle.",
        ),
        (replace('"scale"', '"scales"'), "bundle.json is damaged: fetch the bundle again."),
        (replace('"scale": 4', '"scale": 0'), "bundle.json is damaged: fetch the bundle again."),
        (replace("{", "["), "bundle.json is damaged: fetch the bundle again."),
        (
            replace('"edge/model_fp16.ncnn.param"', '"edge/model_fp16.param"'),
            "edge/model_fp16.param is missing or damaged: fetch the bundle again.",
        ),
        (
            replace('"file": "edge/model_fp16.ncnn.param"', '"file": "../model.param"'),
            "ncnn_fp16 is no artifact of ncnn, or bundle.json does not list ../model.param.",
        ),
        (
            replace('"scale": 4', '"scale": 3'),
            "the artifact does not make what bundle.json says: fetch the bundle again.",
        ),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(
    change: Callable[[Path], None], sentence: str, program: Path, own: Path, tmp_path: Path
) -> None:
    change(own)
    done = run(program, own, photo(tmp_path / "a.png"), tmp_path / "b.png")
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")
    assert not (tmp_path / "b.png").exists()


def test_what_it_cannot_do_it_says(program: Path, bundle: Path, tmp_path: Path) -> None:
    source, text = photo(tmp_path / "a.png"), tmp_path / "text.png"
    text.write_text("no picture")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    nowhere = tmp_path / "nowhere" / "b.png"
    for arguments, sentence in (
        ((bundle, text, "b.png"), f"{text} is no photo that can be read."),
        ((bundle, source, "b.gif"), "b.gif must end in .png or .jpg."),
        ((bundle, source, folder), f"{folder} cannot be written."),
        ((bundle, source, nowhere), f"{nowhere} cannot be written."),
        ((tmp_path, source, "b.png"), f"{tmp_path}/bundle.json cannot be read."),
        (
            (bundle, source, "b.png", "--target", "ncnn_int8"),
            "the bundle has no ncnn_int8; it has ncnn_fp16, onnx_fp32.",
        ),
        (
            (bundle, source, "b.png", "--target", "onnx_fp32"),
            "onnx_fp32 is no artifact of ncnn, or bundle.json does not list edge/model_fp32.bin.",
        ),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")


def test_no_picture_is_half_written(program: Path, bundle: Path, tmp_path: Path) -> None:
    """As where the disk is full: a file may have 20 KB only."""
    source, result = photo(tmp_path / "a.png", (64, 64)), tmp_path / "b.png"
    command = f'ulimit -f 20; trap "" XFSZ; exec {program} {bundle} {source} {result}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: {result} cannot be written.\n")
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_result_that_is_too_large_is_refused(program: Path, bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.new("L", (9000, 5500)).save(source)
    done = run(program, bundle, source, tmp_path / "b.png")
    assert done.returncode == 1
    assert "36000 x 22000 pixels, which is too large: cut the photo." in done.stderr
    Image.new("L", (17000, 1)).save(source)
    assert run(program, bundle, source, tmp_path / "b.jpg").returncode == 1


def test_its_usage_is_told(program: Path) -> None:
    assert run(program, "--help").stdout.startswith("usage: upscale BUNDLE PHOTO RESULT")
    wrong = (("--tile", "3"), ("--target",), ("--public-key", ""), ("d",))
    for arguments in ((), ("a", "b"), *(("a", "b", "c", *more) for more in wrong)):
        done = run(program, *arguments)
        assert done.returncode == 2
        assert "error: " in done.stderr
