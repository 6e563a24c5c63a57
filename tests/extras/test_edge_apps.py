"""infra/edge/android and infra/edge/ios: apps for phones, as far as a desktop can try them.

What the Android app does to a bundle and a photo is compiled and run, beside a real artifact. The
rest needs Android's or Apple's frameworks, so its syntax alone is checked.
"""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from pipelines.config.load import load_config
from pipelines.export import export
from srmodels.edge.target import Runner, make_target
from tests.conftest import ROOT
from tests.extras.test_edge_cpp import difference, flip, replace
from tests.pipelines.test_cli import photo, srmill
from tests.pipelines.test_cli_bundles import make_keys

pytestmark = pytest.mark.timeout(900)  # the compiler comes over the net

ANDROID, IOS = ROOT / "infra" / "edge" / "android", ROOT / "infra" / "edge" / "ios"
KOTLIN = "kotlin-compiler@2.4.20"
#: Android's own org.json.
JSON = Path("/usr/share/java/com.android.json.jar")
TILE, SCALE = 32, 4


@dataclass(frozen=True)
class App:
    """The Android app's code that knows neither Android nor ExecuTorch, as a command."""

    command: tuple[str, ...]
    model: Runner

    def run(self, bundle: Path, *arguments: object, target: str = "onnx_fp32") -> tuple[int, str]:
        """Returns the exit code and what was written to stderr."""
        bundle_and_more = [bundle, target, *arguments]
        with subprocess.Popen(
            [*self.command, *map(str, bundle_and_more)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            if side := process.stdout.read(4):
                assert struct.unpack(">i", side) == (TILE,)
            size = 3 * TILE * TILE
            while data := process.stdout.read(4 * size):
                x_l = torch.tensor(struct.unpack(f">{size}f", data)).view(1, 3, TILE, TILE)
                x_h = self.model.run(x_l).flatten().tolist()
                process.stdin.write(struct.pack(f">{len(x_h)}f", *x_h))
                process.stdin.flush()
            return process.wait(60), process.stderr.read().decode()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ["export.artifacts=[onnx_fp32]", f"export.tile={TILE}", "export.latency_runs=1"]
    output = tmp_path_factory.mktemp("kit")
    return Path(export.run(load_config(["model=rdsr", *settings, f"output={output}"])))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> App:
    pytest.importorskip("tree_sitter", reason="make test-extras installs it")
    if not (shutil.which("java") and shutil.which("npm") and JSON.is_file()):
        pytest.skip("apt-get install default-jre-headless npm libandroid-json-java")
    folder = tmp_path_factory.mktemp("kotlin")
    compiler = folder / "node_modules" / "kotlin-compiler"
    shared = [
        *(ANDROID / "app/src/main/kotlin/srmill/kit" / f"{name}.kt" for name in
          ("Artifact", "PngWriter", "Upscaling")),
        ROOT / "tests" / "extras" / "kotlin" / "Upscale.kt",
    ]  # fmt: skip
    jar = folder / "kit.jar"
    compiled = ["-Werror", "-cp", JSON, "-d", jar, *shared]
    for command in (
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, KOTLIN],
        ["bash", compiler / "bin" / "kotlinc", *compiled],
    ):
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    path = ":".join(map(str, (jar, compiler / "lib" / "kotlin-stdlib.jar", JSON)))
    bundle = request.getfixturevalue("bundle")  # made only where the app is
    model = make_target("onnx_fp32").load(bundle / "edge" / "model_fp32.onnx")
    return App(("java", "-Djava.awt.headless=true", "-cp", path, "srmill.kit.UpscaleKt"), model)


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.mark.parametrize("size", [(75, 40), (32, 32), (20, 57), (1, 1)])
def test_it_makes_the_picture_that_srmill_makes(
    size: tuple[int, int], app: App, bundle: Path, tmp_path: Path
) -> None:
    source, ours, theirs = photo(tmp_path / "a.png", size), tmp_path / "b.png", tmp_path / "c.png"
    assert srmill("upscale", source, ours, "--model", bundle, "--runtime", "onnxruntime") == 0
    code, told = app.run(bundle, source, theirs)
    assert code == 0, told
    with Image.open(theirs) as image:
        image.verify()  # every chunk's CRC
    with Image.open(theirs) as image:
        assert (image.mode, image.size) == ("RGB", (SCALE * size[0], SCALE * size[1]))
    assert difference(ours, theirs).max() <= 1
    rows = 1 + max(0, -(-(size[1] - TILE) // (TILE - TILE // 4)))
    assert told.splitlines() == [f"{done} of {rows}" for done in range(1, rows + 1)]


def test_a_bundle_can_be_required_to_be_signed(app: App, own: Path, tmp_path: Path) -> None:
    source, result = photo(tmp_path / "a.png"), tmp_path / "b.png"
    private, public = make_keys(tmp_path)
    _, another = make_keys(tmp_path, "another")
    wrong = "error: the bundle's signature was not made by this key for this bundle.\n"
    unsigned = "error: the bundle is not signed: sign it with srmill sign.\n"
    assert app.run(own, source, result, public) == (1, unsigned)
    assert srmill("sign", own, "--key", private) == 0
    no_key = "error: this is no public ed25519 key in PEM.\n"
    assert app.run(own, source, result, private) == (1, no_key)
    assert app.run(own, source, result, another) == (1, wrong)
    facts = (own / "bundle.json").read_text()
    (own / "bundle.json").write_text(facts + " ")
    assert app.run(own, source, result, public) == (1, wrong)
    assert not result.exists()
    (own / "bundle.json").write_text(facts)
    windows = tmp_path / "windows.pem"
    windows.write_bytes(public.read_bytes().replace(b"\n", b"\r\n"))
    for key in (public, windows):
        assert app.run(own, source, result, key)[0] == 0
        assert result.exists()
        result.unlink()


DAMAGED = "bundle.json is missing or damaged: fetch the bundle again."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            flip("edge/model_fp32.onnx"),
            "edge/model_fp32.onnx is missing or damaged: fetch the bundle again.",
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
            replace('"images.csv"', '"../own-more/images.csv"'),
            "bundle.json names ../own-more/images.csv, which lies outside the bundle.",
        ),
        (replace('"scale"', '"scales"'), DAMAGED),
        (replace('"scale": 4', '"scale": 0'), DAMAGED),
        (replace("{", "["), DAMAGED),
        (lambda own: (own / "bundle.json").unlink(), DAMAGED),
        (
            replace('"file": "edge/model_fp32.onnx"', '"file": "../model.onnx"'),
            "bundle.json does not list ../model.onnx: fetch the bundle again.",
        ),
        (replace('"onnx_fp32"', '"onnx_fp16"'), "the bundle has no onnx_fp32; it has onnx_fp16."),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(
    change: Callable[[Path], None], sentence: str, app: App, own: Path, tmp_path: Path
) -> None:
    change(own)
    result = tmp_path / "b.png"
    assert app.run(own, photo(tmp_path / "a.png"), result) == (1, f"error: {sentence}\n")
    assert not result.exists()


def test_what_overlaps_is_blended_without_a_seam(app: App, own: Path, tmp_path: Path) -> None:
    class Repeats(Runner):
        def run(self, x_l: torch.Tensor) -> torch.Tensor:
            return interpolate(x_l, scale_factor=3)

    replace('"scale": 4', '"scale": 3')(own)
    source, result = photo(tmp_path / "a.png", (75, 57)), tmp_path / "b.png"
    assert App(app.command, Repeats()).run(own, source, result)[0] == 0
    with Image.open(source) as image:
        image.resize((225, 171), Image.Resampling.NEAREST).save(tmp_path / "c.png")
    assert difference(result, tmp_path / "c.png").max() == 0


def test_an_artifact_of_any_size_runs_tiles(app: App, own: Path, tmp_path: Path) -> None:
    facts = json.loads((own / "bundle.json").read_text())
    facts["edge"]["onnx_fp32"]["input"]["shape"] = [1, 3, None, None]
    assert facts["tile"] == TILE
    source, fixed, any_size = photo(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png"
    assert app.run(own, source, fixed)[0] == 0
    (own / "bundle.json").write_text(json.dumps(facts))
    assert app.run(own, source, any_size)[0] == 0
    assert any_size.read_bytes() == fixed.read_bytes()


def test_what_is_no_number_is_refused(app: App, own: Path, tmp_path: Path) -> None:
    class Nothing(Runner):
        def run(self, x_l: torch.Tensor) -> torch.Tensor:
            return torch.full((1, 3, SCALE * TILE, SCALE * TILE), float("nan"))

    done = App(app.command, Nothing()).run(own, photo(tmp_path / "a.png"), tmp_path / "b.png")
    sentence = "error: the artifact makes no numbers of this photo: take another one.\n"
    assert done == (1, sentence)


def _sources() -> Iterator[Path]:
    """Yields what is ours: a build brings sources of others."""
    listed = subprocess.run(
        ["git", "ls-files", ANDROID, IOS], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if name.endswith((".kt", ".kts", ".swift")):
            yield ROOT / name


def has_fault(name: str, source: bytes) -> bool:
    languages = pytest.importorskip("tree_sitter", reason="pip install tree-sitter")
    package = "tree_sitter_swift" if name.endswith(".swift") else "tree_sitter_kotlin"
    grammar = pytest.importorskip(package)
    parser = languages.Parser(languages.Language(grammar.language()))
    return bool(parser.parse(source).root_node.has_error)


@pytest.mark.parametrize("source", [pytest.param(p, id=p.name) for p in _sources()])
def test_a_sources_syntax(source: Path) -> None:
    text = source.read_bytes()
    assert not has_fault(source.name, text)
    assert has_fault(source.name, text.rstrip().removesuffix(b")").removesuffix(b"}"))


def test_the_manifest_names_the_activity() -> None:
    manifest = ElementTree.parse(ANDROID / "app" / "src" / "main" / "AndroidManifest.xml")
    named = "{http://schemas.android.com/apk/res/android}name"
    [activity] = [each.get(named) for each in manifest.iter("activity")]
    assert activity == ".MainActivity"
    source = ANDROID / "app" / "src" / "main" / "kotlin" / "srmill" / "kit" / "MainActivity.kt"
    assert "\nclass MainActivity : Activity()" in source.read_text()
