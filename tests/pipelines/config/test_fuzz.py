"""Feeds mutated arguments, recipes, references and addresses to what reads them: each gives one
sentence or a valid configuration.

The keys come from the schema, so a new key is fed by itself. SRMILL_FUZZ=20 feeds 20 times as many.
"""

import dataclasses
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.config.keys import Place
from pipelines.config.load import documented_keys, load_config, to_dict, to_yaml
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.export import export
from pipelines.registry import register
from tests.support.mutations import HOSTILE, changed, places

#: A system and a stage, as small as they get: most of the time goes into building networks.
RECIPE = """\
system: edge_sd_sr
networks:
  latent_channels: 4
  hr_encoder: {channels: [8], num_blocks: [1]}
  lr_encoder: {channels: 8, num_blocks: 1}
  unet: {channels: [8], attention_levels: [0], head_channels: 8, num_groups: 4}
  decoder: {channels: [8], num_blocks: [1]}
train: {crop: 64}
stages: {joint: {}}
stage1: [joint]
"""
PASSWORD = "hunter2"
#: A sentence is shorter, whatever was written.
LONGEST = 600
fed = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


def times(count: int) -> settings:
    return settings(fed, max_examples=count * int(os.environ.get("SRMILL_FUZZ", "1")))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the recipe, in which every relative path ends; no server can be reached."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "small.yaml").write_text(RECIPE)

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("what is checked without a network asked for one")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SRMILL_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(socket.socket, "connect", refuse)
        yield folder
        assert {path.name for path in folder.iterdir()} <= {"small.yaml", "mine.yaml"}


def names(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from names(value, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def keys(folder: Path) -> list[str]:
    """Every key of the schema and of the recipe, and every group of keys."""
    of_recipe = names(to_dict(load_config(["recipe=small.yaml"])))
    return sorted({*of_recipe, *(key for key, _, _ in documented_keys())})


def places_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Place]]:
    """The keys that take an address, and the form that each takes."""
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(item.type) and isinstance(item.type, type):
            yield from places_of(item.type, f"{prefix}{item.name}.")
        elif item.metadata.get("place"):
            yield prefix + item.name, item.metadata["place"]


PLACES = dict(places_of(Config))
#: The beginnings of addresses that are no paths, by the form that a key takes.
BEGINNINGS = {
    Place.LOCAL: (),
    Place.ANY: ("s3://",),
    Place.WEB: ("http://", "https://"),
    Place.TRACKING: ("http://", "https://", "sqlite:///"),
    Place.MODEL: ("s3://",),
    Place.MAIL: (),
    Place.SMTP: ("smtp://", "smtps://"),
}
#: Keys of a stage that take a model reference, or the name of another stage.
OF_STAGES = ["stages.joint.init_from", "stages.joint.teacher"]


def held(config: Config, key: str) -> list[str]:
    """The addresses that a key holds."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return [str(each) for each in (value if isinstance(value, list) else [value])]


numbers = st.sampled_from(
    "0 -1 1 2 7 1e3 1e20 1e400 -1e-400 inf -inf .inf .nan nan 0x10 0o7 1_000 1.0 99999999999 +1 "
    f"1{'0' * 25} {'9' * 5000} -{'9' * 5000} 0.1.2".split()
)
odd = st.sampled_from(
    ["", " ", "null", "~", "true", "[]", "{}", "[[[]]]", "[null]", "[1,.inf]", "[1,2]", "[true]",
     "{a: {b: {c: null}}}", "{1: 2}", "{null: 1}", "{a.b: 1}", "'", '"', "${", "${seed}", "${.}",
     "${train}", "${stages.joint}", "${oc.env:HOME}", "${a:b}", "\\${a}", "???", "&a [*a]", "*a",
     "!!set {a}", "!!python/object:os.system x", "!!binary aGk=", "2001-01-01", "|", "#", "a: b",
     "a=b", "[1,2", "]", "@", "`", "\t", "\r", "\0", "\x1b[31m", "\u2028", "\u202e", "\ud800",
     "a\nb", '"a\\nb"', '"\\ud800"', "é" * 300, "x" * 5000, "[" * 3000, "{a:" * 500, "~nobody/x",
     "..", "/", "a,b"]
)  # fmt: skip
letters = st.text("ab01.,:[]{}\"'$\\#&*!|>%@`-? =~/\n\t\0é\u202e\ud800", max_size=10)
schemes = [
    "http",
    "https",
    "ftp",
    "file",
    "s3",
    "gs",
    "sqlite",
    "smtp",
    "mysql+pymysql",
    "S3",
    "é",
    "1",
    "",
]
users = ["", "joe:{}@", ":{}@", "{}@", "joe:{}/x@", "joe:{}?x@", "joe:{}#x@", "joe:{}@x@"]
addresses = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(schemes),
    st.sampled_from(["://", "://", "://", ":///", ":/", ":"]),
    st.sampled_from([*users, f"joe:{{}}{'x' * 200}@"]).map(lambda user: user.format(PASSWORD)),
    st.sampled_from(["host", "", "[::1", "[::1]", "a b", "é.de", "\x1b[31m", "h" * 300, ".."]),
    st.sampled_from(["", ":5000", ":port", ":-1", ":99999", ":0", ":", ":²"]),
    st.sampled_from(["", "/", "/a/b", "/../..", "?q=1", "#f", "/a@b", "/" + "x" * 5000, "\n"]),
)
references = st.sampled_from(
    ["models:/", "models:/a@b", "models:/a/1", "models:/a/²", "models:/a/b", "models:/@",
     "models:/a\nb@c", "models:/../..@x", "models:/ @ ", f"models:/{'a' * 5000}@b", "run:",
     "run:..", "run:a", "run:../../etc", "run:\n", "onnx:", "onnx:x", "spandrel:\0", "span",
     "artifact:x", "bicubic", "rdsr", "nosuch", "..", ".", "/", "~", "~nobody", "s3:/b", "C:\\x",
     "joint"]
)  # fmt: skip
values = numbers | odd | letters | addresses | references


def written(value: str, way: str) -> str:
    """A value as a command line may hold it."""
    return {"": value, "[]": f"[{value}]", '"': json.dumps(value), '["': json.dumps([value])}[way]


ways = st.sampled_from(["", "", "", "[]", '"', '["'])


def check_sentence(error: UserError, given: str) -> None:
    sentence = str(error)
    assert sentence
    assert sentence.isprintable(), "one line"
    assert len(sentence) < LONGEST
    if re.search(rf"://+[^/\s:@\[]*:?{PASSWORD}", given):
        assert PASSWORD not in sentence


def loaded(*arguments: str) -> Config | None:
    """The configuration, if it is valid: then it can be kept and printed too."""
    try:
        config = load_config(arguments)
    except UserError as error:
        check_sentence(error, " ".join(arguments))
        return None
    json.dumps(to_dict(config), allow_nan=False)
    yaml.safe_load(to_yaml(config))
    return config


@times(35)
@given(
    draw=st.data(), value=values, way=ways, end=st.sampled_from([*[""] * 9, ".x", "[0]", "..", " "])
)
def test_an_argument(keys: list[str], draw: st.DataObject, value: str, way: str, end: str) -> None:
    key = draw.draw(st.sampled_from(keys))
    loaded("recipe=small.yaml", f"{key}{end}={written(value, way)}")


@times(30)
@given(
    key=st.sampled_from([*PLACES, *OF_STAGES]),
    value=addresses | addresses | references | odd,
    way=ways,
)
def test_an_address(key: str, value: str, way: str) -> None:
    config = loaded("recipe=small.yaml", f"{key}={written(value, way)}")
    if config is None:
        return
    for address in held(config, key) if key in PLACES else []:
        assert "://" not in address or address.startswith(BEGINNINGS[PLACES[key]])
    if "s3://" in value:  # the plan would ask the server
        return
    for plan in (shard.plan, evaluate.plan, export.plan, register.plan):
        try:
            plan(config)
        except UserError as error:
            check_sentence(error, value)


@times(200)
@given(text=references | addresses | odd | letters)
@example("models:/a/²")
@example("run:../../elsewhere")
@example("..")
@example("s3://host/../..")
def test_a_reference(text: str) -> None:
    try:
        found = ModelReference.parse(text)
    except UserError as error:
        check_sentence(error, text)
        return
    assert ModelReference.parse(str(found)) == found
    assert found.slug not in ("..", ".")
    assert "/" not in found.slug


@pytest.fixture(scope="module")
def recipe(folder: Path) -> dict[str, Any]:
    """A recipe that sets every key."""
    everything = to_dict(load_config(["recipe=small.yaml"]))
    del everything["recipe"]
    return everything


def from_recipe(folder: Path, text: str) -> None:
    (folder / "mine.yaml").write_bytes(text.encode(errors="surrogatepass"))
    loaded("recipe=mine.yaml")


@times(18)
@given(
    draw=st.data(),
    to=st.sampled_from([*HOSTILE, 10**5000, {1: 2}, {None: 1}, {"a.b": 1}, "${seed}", "???"])
    | values,
    how=st.sampled_from(["set", "set", "drop", "rename"]),
)
def test_a_recipe(
    folder: Path, recipe: dict[str, Any], draw: st.DataObject, to: Any, how: str
) -> None:
    where = draw.draw(st.sampled_from(list(places(recipe))))
    try:
        text = yaml.safe_dump(changed(recipe, where, to, how), allow_unicode=True)
    except (ValueError, yaml.YAMLError):
        return  # YAML has no lone surrogates, and Python writes out no number of 5000 digits
    from_recipe(folder, text)


def alone(path: tuple[Any, ...], value: Any) -> Any:
    """A recipe that sets the value at this path alone."""
    for key in reversed(path):
        value = {key: value} if isinstance(key, str) else [value]
    return value


@times(22)
@given(draw=st.data(), to=st.sampled_from([*HOSTILE, {1: 2}, "${seed}", "???"]) | values)
def test_a_recipe_that_changes_its_base(
    folder: Path, recipe: dict[str, Any], draw: st.DataObject, to: Any
) -> None:
    where = draw.draw(st.sampled_from(list(places(recipe))[1:]))
    try:
        text = yaml.safe_dump({"base": "small.yaml"} | alone(where, to), allow_unicode=True)
    except (ValueError, yaml.YAMLError):
        return
    from_recipe(folder, text)


@times(20)
@given(
    draw=st.data(),
    piece=odd
    | letters
    | st.sampled_from(["<<: *a", "---\n", "%YAML 9\n", "? ", "!!int x", "\x85"])
    | st.sampled_from(["base: nosuch\n", "base: [1]\n", "base: ..\n", "base: mine.yaml\n"]),
    gone=st.sampled_from([0, 0, 1, 20]),
)
def test_the_text_of_a_recipe(
    folder: Path, recipe: dict[str, Any], draw: st.DataObject, piece: str, gone: int
) -> None:
    text = yaml.safe_dump(recipe, sort_keys=False)
    start = draw.draw(st.integers(0, len(text)))
    from_recipe(folder, text[:start] + piece + text[start + gone :])


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".yaml",
        "..",
        "/",
        "folder.yaml",
        "\0.yaml",
        "a\nb",
        "é" * 300 + ".yaml",
        "\ud800",
        "[a]",
    ],
)
def test_the_name_of_a_recipe(name: str) -> None:
    loaded(f"recipe={name}")


def test_every_address_is_declared() -> None:
    assert {
        "source", "mirror", "data", "output", "model", "bundle", "benchmark", "preview",
        "run.storage", "run.scratch", "stream.cache", "evaluate.compare", "export.evidence",
        "mlflow.uri", "notify.mail", "notify.smtp", "notify.webhook", "shard.val_source",
        "gate.benchmark", "retrain.records", "export.candidates",
    } == set(PLACES)  # fmt: skip
