"""The one grammar of what names a model."""

from pathlib import Path

import pytest

from pipelines.config.reference import PEERS, SHIPPED, Kind, ModelReference, shipped_models
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("text", "kind", "name", "slug"),
    [
        ("models:/tiny@champion", Kind.REGISTRY, "tiny", "tiny@champion"),
        ("models:/tiny/12", Kind.REGISTRY, "tiny", "tiny_12"),
        ("run:monday-joint", Kind.RUN, "monday-joint", "monday-joint"),
        ("artifact:some/edge/model.pte", Kind.ARTIFACT, "some/edge/model.pte", "model.pte"),
        ("onnx:some/model.onnx", Kind.ONNX, "some/model.onnx", "model.onnx"),
        ("spandrel:x4.pth", Kind.SPANDREL, "x4.pth", "x4.pth"),
        ("span", Kind.PEER, "span", "span"),
        ("bicubic", Kind.INTERPOLATION, "bicubic", "bicubic"),
        ("rdsr", Kind.SHIPPED, "rdsr", "rdsr"),
        ("some/bundle", Kind.BUNDLE, "some/bundle", "bundle"),
        ("s3://bucket/a/bundle", Kind.BUNDLE, "s3://bucket/a/bundle", "bundle"),
    ],
)
def test_every_form_is_read_and_written_again(text: str, kind: Kind, name: str, slug: str) -> None:
    found = ModelReference.parse(text)
    assert (found.kind, found.name, found.slug) == (kind, name, slug)
    assert str(found) == text
    assert ModelReference.parse(str(found)) == found
    is_model = kind in (Kind.REGISTRY, Kind.RUN, Kind.SHIPPED, Kind.BUNDLE)
    assert found.is_model == is_model


def test_a_registered_model_has_an_alias_or_a_version() -> None:
    assert ModelReference.parse("models:/a@b").alias == "b"
    assert ModelReference.parse("models:/a/3").version == "3"


@pytest.mark.parametrize(
    "text",
    ["models:/tiny", "models:/@x", "models:/tiny@", "models:/a/b", "models:/a/²", "models:/a\n@b",
     "models:/a/b@c", f"models:/{'a' * 300}@b"],
)  # fmt: skip
def test_another_form_of_a_registered_model_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not of the form models:/NAME@ALIAS or"):
        ModelReference.parse(text)


@pytest.mark.parametrize("text", ["run:", "run:..", "run:../elsewhere", "run:a\n"])
def test_a_run_is_named_by_one_word(text: str) -> None:
    with pytest.raises(UserError, match="is not of the form run:NAME"):
        ModelReference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host/a",
        "s3://",
        "s3:///a",
        "s3://joe:secret@bucket/a",
        "s3://joe:se/cret@bucket/a",
        "s3://bucket/a/..",
    ],
)
def test_an_address_of_another_form_names_no_model(text: str) -> None:
    with pytest.raises(
        UserError, match="names no model: give a bundle's directory or s3:"
    ) as error:
        ModelReference.parse(text)
    assert "secret" not in str(error.value)


def test_the_folder_above_a_link_is_that_of_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path))
    (tmp_path / "far" / "inside").mkdir(parents=True)
    (tmp_path / "far" / "bundle").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inside")
    found = ModelReference.parse("link/../bundle")
    assert found.name == str(tmp_path / "far" / "bundle")


def test_the_folder_above_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path))
    assert ModelReference.parse("..") == ModelReference(Kind.BUNDLE, str(tmp_path.parent))
    assert ModelReference.parse("..").slug == tmp_path.parent.name


def test_a_folder_means_the_same_in_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "mine").mkdir(parents=True)
    found = ModelReference.parse("mine")
    assert str(found) == str(tmp_path / "home" / "mine")
    assert found.is_plausible
    assert not ModelReference.parse("nime").is_plausible


def test_no_name_means_two_things() -> None:
    assert not set(shipped_models()) & set(PEERS)
    assert all((SHIPPED / name / "bundle.json").is_file() for name in shipped_models())
