"""infra/edge/cpp: the C++ program, built for ncnn and for ONNX Runtime, and run on bundles."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
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
NEEDED = "cmake g++ pkg-config nlohmann-json3-dev libsodium-dev libexif-dev libstb-dev"


@dataclass(frozen=True)
class Kit:
    """The program for one runtime.

    Attributes:
        runtime: its name for CMake and `srmill upscale`.
        title: its name in messages.
        targets: artifacts that it runs, the one that it takes unasked first.
        weights: the file of that one whose damage is to be seen.
        graph: the file that bundle.json names for it.
        other: an artifact that it does not run, and why.
    """

    runtime: str
    title: str
    targets: tuple[str, ...]
    weights: str
    graph: str
    other: tuple[str, str]


NCNN = Kit(
    "ncnn",
    "ncnn",
    ("ncnn_fp16", "ncnn_int8"),
    "edge/model_fp16.ncnn.bin",
    "edge/model_fp16.ncnn.param",
    (
        "onnx_fp32",
        "onnx_fp32 is no artifact of ncnn, or bundle.json does not list edge/model_fp32.bin.",
    ),
)
ONNX = Kit(
    "onnxruntime",
    "ONNX Runtime",
    ("onnx_fp32", "onnx_int8"),
    "edge/model_fp32.onnx",
    "edge/model_fp32.onnx",
    ("ncnn_fp16", "ncnn_fp16 is not one network of ONNX Runtime: name another artifact."),
)


@pytest.fixture(scope="module", params=[NCNN, ONNX], ids=lambda kit: kit.runtime)
def kit(request: pytest.FixtureRequest) -> Kit:
    made: Kit = request.param
    return made


@pytest.fixture(scope="module")
def program(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pnnx", reason="pip install -e '.[ncnn]'")
    for tool in ("cmake", "g++", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"apt-get install {NEEDED}")
    packages = ["libsodium", "libexif", "nlohmann_json", "stb"]
    if subprocess.run(["pkg-config", *packages], check=False).returncode:
        pytest.skip(f"apt-get install {NEEDED}")
    folder = tmp_path_factory.mktemp("build")
    configure = ["-S", SOURCES, "-B", folder, f"-DRUNTIME={kit.runtime}"]
    for command in (configure, ["--build", folder, "--parallel", "2"]):
        done = subprocess.run(
            ["cmake", *map(str, command)], capture_output=True, text=True, check=False
        )
        if "Could not find ONNXRUNTIME_" in done.stderr:
            pytest.skip("apt-get install libonnxruntime-dev, or name a copy in $CMAKE_PREFIX_PATH")
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        said = (done.stdout + done.stderr).splitlines()
        assert not [line for line in said if str(SOURCES) in line and "warning" in line]
    return folder / "upscale"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pnnx", reason="pip install -e '.[ncnn]'")
    settings = [
        f"export.artifacts=[{','.join((*ONNX.targets, 'onnx_fp32_dynamic', *NCNN.targets))}]",
        "export.tile=32",
        "export.latency_runs=1",
        "export.max_quality_loss=1000",
        f"output={tmp_path_factory.mktemp('kit')}",
    ]
    return Path(export.run(load_config(["model=light_mobile", *settings])))


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
    size: tuple[int, int], kit: Kit, program: Path, bundle: Path, tmp_path: Path
) -> None:
    source = photo(tmp_path / "a.png", size)
    for target in kit.targets:
        ours, theirs = tmp_path / f"{target}.png", tmp_path / f"{target}_kit.png"
        of_ours = ("--runtime", kit.runtime, "--precision", target.partition("_")[2])
        assert srmill("upscale", source, ours, "--model", bundle, *of_ours) == 0
        done = run(program, bundle, source, theirs, "--target", target)
        assert done.returncode == 0, done.stderr
        assert (done.stdout, done.stderr) == ("", "")
        with Image.open(theirs) as image:
            assert image.size == (4 * size[0], 4 * size[1])
        # Two builds of ncnn sum in two orders, and a value on the edge between two of int8's steps
        # then falls on either side.
        apart = difference(ours, theirs)
        assert apart.max() <= (8 if target == "ncnn_int8" else 1)
        assert (apart > 1).mean() <= 0.01
    assert len(list(tmp_path.iterdir())) == 1 + 2 * len(kit.targets)


def test_an_artifact_for_any_size_runs_on_tiles(
    kit: Kit, program: Path, bundle: Path, tmp_path: Path
) -> None:
    if kit is not ONNX:
        pytest.skip("ncnn's artifacts have one size")
    source = photo(tmp_path / "a.png", (75, 40))
    for name, target in (("b.png", "onnx_fp32"), ("c.png", "onnx_fp32_dynamic")):
        assert run(program, bundle, source, tmp_path / name, "--target", target).returncode == 0
    assert difference(tmp_path / "b.png", tmp_path / "c.png").max() <= 1


def test_it_takes_one_artifact_unasked(
    kit: Kit, program: Path, bundle: Path, tmp_path: Path
) -> None:
    source = photo(tmp_path / "a.png")
    for name, arguments in (("b.png", ()), ("c.png", ("--target", kit.targets[0]))):
        assert run(program, bundle, source, tmp_path / name, *arguments).returncode == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    assert kit.targets[0] in run(program, "--help").stdout


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


def reshape(target: str, shape: list[int]) -> Callable[[Path], None]:
    def change(own: Path) -> None:
        facts = json.loads((own / "bundle.json").read_text())
        facts["edge"][target]["input"]["shape"] = shape
        (own / "bundle.json").write_text(json.dumps(facts))

    return change


def refusals(kit: Kit) -> list[tuple[Callable[[Path], None], str]]:
    """Returns ways to damage a bundle, each with what the program says of it."""
    damaged = "bundle.json is damaged: fetch the bundle again."
    outside = f"{kit.targets[0]} is no artifact of {kit.title}, or bundle.json does not list"
    return [
        (flip(kit.weights), f"{kit.weights} is missing or damaged: fetch the bundle again."),
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
        (replace('"scale"', '"scales"'), damaged),
        (replace('"scale": 4', '"scale": 0'), damaged),
        (replace("{", "["), damaged),
        (reshape(kit.targets[0], []), damaged),
        (
            replace(f'"{kit.graph}"', '"edge/another.param"'),
            "edge/another.param is missing or damaged: fetch the bundle again.",
        ),
        (
            replace(f'"file": "{kit.graph}"', '"file": "../model.param"'),
            f"{outside} ../model.param.",
        ),
        (
            replace('"scale": 4', '"scale": 3'),
            "the artifact does not make what bundle.json says: fetch the bundle again.",
        ),
    ]


@pytest.mark.parametrize("number", range(len(refusals(NCNN))))
def test_a_bundle_that_is_not_whole_is_refused(
    number: int, kit: Kit, program: Path, own: Path, tmp_path: Path
) -> None:
    change, sentence = refusals(kit)[number]
    change(own)
    done = run(program, own, photo(tmp_path / "a.png"), tmp_path / "b.png")
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")
    assert not (tmp_path / "b.png").exists()


def test_an_artifact_of_several_networks_is_refused(
    kit: Kit, program: Path, own: Path, tmp_path: Path
) -> None:
    facts = json.loads((own / "bundle.json").read_text())
    facts["edge"][kit.targets[0]]["others"] = ["images.csv", "sbom.cdx.json"]
    (own / "bundle.json").write_text(json.dumps(facts))
    done = run(program, own, photo(tmp_path / "a.png"), tmp_path / "b.png")
    sentence = f"{kit.targets[0]} is not one network of {kit.title}: name another artifact."
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")


def test_what_it_cannot_do_it_says(kit: Kit, program: Path, bundle: Path, tmp_path: Path) -> None:
    source, text = photo(tmp_path / "a.png"), tmp_path / "text.png"
    text.write_text("no picture")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    nowhere = tmp_path / "nowhere" / "b.png"
    listed = json.loads((bundle / "bundle.json").read_text())["edge"]
    for arguments, sentence in (
        ((bundle, text, "b.png"), f"{text} is no photo that can be read."),
        ((bundle, source, "b.gif"), "b.gif must end in .png or .jpg."),
        ((bundle, source, folder), f"{folder} cannot be written."),
        ((bundle, source, nowhere), f"{nowhere} cannot be written."),
        ((tmp_path, source, "b.png"), f"{tmp_path}/bundle.json cannot be read."),
        (
            (bundle, source, "b.png", "--target", "ncnn_bf16"),
            f"the bundle has no ncnn_bf16; it has {', '.join(sorted(listed))}.",
        ),
        ((bundle, source, "b.png", "--target", kit.other[0]), kit.other[1]),
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
