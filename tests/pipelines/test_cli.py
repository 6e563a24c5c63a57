"""The `srmill` command."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pipelines import cli
from pipelines.cli import command, photos
from pipelines.config.load import load_config
from pipelines.data.image_files import write_picture
from pipelines.errors import UserError
from pipelines.export import export
from pipelines.models.bundle import load_bundle, seal
from pipelines.models.load import weights_sha256
from pipelines.registry import register
from tests.conftest import SMALL
from tests.pipelines.data.test_images import POSTSCRIPT, bombs, encoded
from tests.support.bundles import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    make_bundle(directory, SMALL)
    return directory


def srmill(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def photo(path: Path, size: tuple[int, int] = (37, 21), mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_photo_becomes_four_times_as_large(tmp_path: Path, bundle: Path, suffix: str) -> None:
    source, target = photo(tmp_path / "a.png"), tmp_path / f"b.{suffix}"
    assert srmill("upscale", source, target, "--model", bundle) == 0
    with Image.open(target) as image:
        assert image.size == (148, 84)
        assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[suffix]


def test_tiles_in_batches_change_nothing_and_colours_can_be_the_photos(
    tmp_path: Path, bundle: Path
) -> None:
    source = photo(tmp_path / "a.png")

    def upscaled(*options: object) -> np.ndarray:
        target = tmp_path / "b.png"
        assert srmill("upscale", source, target, "--model", bundle, "--overwrite", *options) == 0
        with Image.open(target) as image:
            return np.asarray(image).astype(int)

    plain, batched = upscaled("--overlap", 24), upscaled("--overlap", 24, "--batch", 3)
    assert np.abs(plain - batched).max() <= 1
    with Image.open(source) as image:
        wanted = np.asarray(image.resize((148, 84), Image.Resampling.BICUBIC)).mean((0, 1))
    fixed = upscaled("--color-fix", "adain").mean((0, 1))
    assert np.abs(fixed - wanted).max() < 1
    assert not np.array_equal(upscaled("--overlap", 24, "--color-fix", "wavelet"), plain)


def test_a_folder_is_upscaled_and_done_photos_are_left_alone(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    photo(source / "a b.png", mode="RGBA")
    photo(source / "ü.jpg")
    assert srmill("upscale", source, target, "--model", bundle) == 0
    assert sorted(path.name for path in target.iterdir()) == ["a b.png", "ü.jpg"]
    with Image.open(target / "a b.png") as image:
        assert image.mode == "RGBA"
    before = (target / "ü.jpg").stat().st_mtime_ns
    assert srmill("upscale", source, target, "--model", bundle) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert (target / "ü.jpg").stat().st_mtime_ns == before


def test_one_bad_photo_of_a_folder_is_named_and_the_rest_is_done(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    photo(source / "good.png")
    (source / "bad.png").write_text("not a picture")
    whole = photo(tmp_path / "whole.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert srmill("upscale", source, target, "--model", bundle) == 1
    assert [path.name for path in target.iterdir()] == ["good.png"]
    error = capsys.readouterr().err
    assert "bad.png cannot be read" in error
    assert "cut.png cannot be read" in error
    assert "1 photos upscaled, 2 skipped." in error


def test_hostile_files_of_a_folder_are_named_and_the_rest_is_done(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    latin = photo(source / os.fsdecode(b"caf\xe9.png")).name
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 100)]
    files = bombs() | {
        "postscript": POSTSCRIPT,
        "film": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "integers": encoded(Image.new("I", (8, 8), 70_000), "TIFF"),
        "floats": encoded(Image.new("F", (8, 8), 0.5), "TIFF"),
        "exif": encoded(frames[0], "PNG", exif=b"Exif\0\0MM\0*\0\0"),
    }
    for name, data in files.items():
        (source / f"{name}.png").write_bytes(data)
    assert srmill("upscale", source, target, "--model", bundle) == 1
    assert [path.name for path in target.iterdir()] == [latin]
    output = capsys.readouterr()
    assert r"out/caf\udce9.png: 148x84 px" in output.out
    skipped = [line for line in output.err.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == len(files)
    for name, reason in [
        ("film", "an animation"),
        ("postscript", "not an image"),
        ("integers", "pixels without a defined range"),
        ("floats", "pixels without a defined range"),
        *((name, "truncated or corrupt") for name in ("exif", *bombs())),
    ]:
        assert any(f"{name}.png cannot be read as a photo ({reason}" in line for line in skipped)
    assert f"1 photos upscaled, {len(files)} skipped." in output.err


def test_damaged_exif_is_noted_in_one_line(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = tmp_path / "a.jpg"
    source.write_bytes(encoded(Image.new("RGB", (16, 24)), "JPEG", exif=exif.tobytes()[:-8]))
    assert srmill("upscale", source, tmp_path / "b.png", "--model", bundle) == 0
    assert capsys.readouterr().err == (
        f"note: {source}: its metadata is damaged, so the picture may lie on its side.\n"
    )


def test_a_photo_above_the_limit_is_refused_with_the_switch(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "a.png", (500, 4100))
    options = ("--model", bundle, "--max-megapixels")
    assert srmill("upscale", source, tmp_path / "b.png", *options, 1.5) == 2
    assert "2 megapixels, and 1.5 are the limit: raise --max-megap" in capsys.readouterr().err
    assert srmill("upscale", source, tmp_path / "b.webp", *options, 3) == 2
    assert "WEBP ends at 16383 px: write .png or .jpg" in capsys.readouterr().err
    assert srmill("upscale", source, tmp_path / "b.png", *options, "nan") == 2
    assert "--max-megapixels must be more than 0" in capsys.readouterr().err


def test_mistakes_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    source = photo(tmp_path / "a.png")
    existing = photo(tmp_path / "b.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in [
        ((tmp_path / "no.png", tmp_path / "c.png"), "does not exist"),
        ((source, tmp_path / "c.gif"), "must end in .png, .jpg"),
        ((source, existing), "exists: choose another name, or add --overwrite"),
        ((source, tmp_path / "no" / "c.png"), "the folder .* does not exist"),
        ((empty, tmp_path / "out"), "holds no photo"),
        ((tmp_path, tmp_path), "the same folder"),
    ]:
        with pytest.raises(UserError, match=message):
            command.find_tasks(*arguments, overwrite=False)


def test_a_photo_is_not_replaced_by_its_own_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "a.png")
    before = source.read_bytes()
    for target in (source, tmp_path):
        with pytest.raises(UserError, match="IN and OUT are the same photo"):
            command.find_tasks(source, target, overwrite=True)
    # An unset variable is an empty path, and not the current folder.
    monkeypatch.chdir(tmp_path)
    for arguments in ((source, ""), ("", tmp_path / "b.png")):
        assert srmill("upscale", *arguments, "--overwrite") == 2
        assert "the path is empty" in capsys.readouterr().err
    assert srmill("upscale", source, "a" * 300) == 2
    assert "is too long: shorten it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert source.read_bytes() == before


def test_a_pipe_is_no_photo(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert srmill("upscale", tmp_path / "a.png", tmp_path / "b.png", "--model", bundle) == 2
    assert "it is a pipe or a device, not a file" in capsys.readouterr().err


def test_a_request_to_end_leaves_no_half_photo(
    tmp_path: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, before = photo(tmp_path / "a.png"), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(photos, "write_picture", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert srmill("upscale", source, tmp_path / "b.png", "--model", bundle) == 143
    assert "terminated: finished files are whole" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_artifact_gives_the_picture_of_pytorch(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = load_bundle(bundle)
    weights = weights_sha256(known.network().inference_state_dict())
    seal(bundle, replace(known.facts, weights_sha256=weights))
    settings = ["export.artifacts=[onnx_fp32]", "export.tile=32", "export.latency_runs=1"]
    config = load_config([f"model={bundle}", f"output={tmp_path / 'bundles'}", *settings])
    exported = export.run(config)
    source, ours, theirs = photo(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png"
    assert srmill("upscale", source, ours, "--model", bundle, "--overlap", 8) == 0
    options = ("--model", exported, "--runtime", "onnxruntime", "--overlap", 8, "--batch", 2)
    assert srmill("upscale", source, theirs, *options) == 0
    with Image.open(ours) as one, Image.open(theirs) as other:
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    capsys.readouterr()
    refused = tmp_path / "d.png"
    assert srmill("upscale", source, refused, *options, "--precision", "int8") == 2
    assert (
        f"{exported} has no artifact onnx_int8 (it has onnx_fp32): make it with jobs/export.py "
        f"model={exported} 'export.artifacts=[onnx_int8]'."
    ) in capsys.readouterr().err
    options = ("--model", bundle, "--precision", "int8")
    assert srmill("upscale", source, refused, *options) == 2
    assert "--precision is an artifact's: add --runtime onnxruntime." in capsys.readouterr().err


def test_a_terminal_that_is_closed_ends_nothing_under_nohup(tmp_path: Path, bundle: Path) -> None:
    def close(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        write_picture(*arguments)

    source, target = photo(tmp_path / "a.png"), tmp_path / "b.png"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(photos, "write_picture", close)
            assert srmill("upscale", source, target, "--model", bundle) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert target.is_file()


def test_a_link_that_leads_nowhere_is_not_replaced(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, link = photo(tmp_path / "a.png"), tmp_path / "b.png"
    link.symlink_to(tmp_path / "not mounted" / "b.png")
    assert srmill("upscale", source, link, "--model", bundle) == 2
    assert f"{link} exists: choose another name" in capsys.readouterr().err
    folder, large = tmp_path / "photos", tmp_path / "large"
    folder.mkdir()
    large.mkdir()
    photo(folder / "b.png")
    other = link.rename(large / "b.png")
    assert srmill("upscale", folder, large, "--model", bundle) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert other.is_symlink()


def test_a_name_drives_no_terminal(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(folder / "a\x1b]0;b\x07\nskipped: fake.png")
    assert srmill("upscale", folder, tmp_path / "large", "--model", bundle) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert not any(line.startswith("skipped") for line in (told.out + told.err).splitlines())
    assert "a\\x1b]0;b\\x07\\nskipped: fake.png: 148x84 px" in told.out


@pytest.mark.parametrize("kind", [2, 3])
def test_a_colour_profile_that_is_none_is_left_out(kind: int, tmp_path: Path, bundle: Path) -> None:
    """TIFF says of what type its tags are: 2 is text, and 3 whole numbers."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[34675] = kind
    tags[34675] = "hello" if kind == 2 else (1, 2, 3)
    source = tmp_path / "a.tif"
    with Image.open(photo(tmp_path / "a.png")) as image:
        image.save(source, tiffinfo=tags)
    for suffix in ("png", "jpg", "webp"):
        result = tmp_path / f"b.{suffix}"
        assert srmill("upscale", source, result, "--model", bundle) == 0
        with Image.open(result) as image:
            assert image.size == (148, 84)
            assert "icc_profile" not in image.info


def test_a_terminal_that_is_closed_leaves_no_half_photo(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, before = photo(tmp_path / "a.png"), signal.getsignal(signal.SIGHUP)
    monkeypatch.setattr(photos, "write_picture", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    assert srmill("upscale", source, tmp_path / "b.png", "--model", bundle) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_batch_has_an_end(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "a.png")
    for batch in (0, 10**30):
        options = ("--model", bundle, "--batch", batch)
        assert srmill("upscale", source, tmp_path / "b.png", *options) == 2
        assert "--batch must be 1 to 4096, not" in capsys.readouterr().err


def test_transparency_is_never_dropped_silently(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "a.png", mode="RGBA")
    assert srmill("upscale", source, tmp_path / "b.jpg", "--model", bundle) == 2
    assert "JPEG cannot hold" in capsys.readouterr().err
    assert not (tmp_path / "b.jpg").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nosuch", "there is no model 'nosuch'"),
        ("models:/nosuch@champion", "there is no model registry"),
        ("models:/nosuch", "is not of the form models:/NAME@ALIAS"),
    ],
)
def test_a_model_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reference: str, message: str
) -> None:
    source = photo(tmp_path / "a.png")
    assert srmill("upscale", source, tmp_path / "b.png", "--model", reference) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_bundle_is_refused(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (copy / "config.yaml").write_text("system: edge_sd_sr\n")
    source = photo(tmp_path / "a.png")
    assert srmill("upscale", source, tmp_path / "b.png", "--model", copy) == 2
    assert "config.yaml is missing or damaged" in capsys.readouterr().err


def test_models_lists_what_is_at_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert srmill("models") == 0
    output = capsys.readouterr().out
    assert "Shipped with this project:" in output
    assert "Default: " in output


def test_models_tells_the_scores_of_the_champion(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register.run(
        load_config([f"recipe={SMALL}", f"bundle={bundle}", "mlflow.model=edge_sd_sr_tiny"])
    )
    capsys.readouterr()
    assert srmill("models") == 0
    assert (
        "In the registry:\n  models:/edge_sd_sr_tiny@champion: small, ×4, "
        "validation/psnr_y_crop4 30.2500, validation/ssim_y_crop4 0.9000\n"
    ) in capsys.readouterr().out
