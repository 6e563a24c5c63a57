"""The gate measures a version that lacks scores on the frozen benchmark, once, on real images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data.set_files import EMBEDDED_FOLDER
from pipelines.errors import UserError
from pipelines.evaluation.frozen import open_frozen
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import from_csv, to_csv
from pipelines.models.bundle import IMAGES, WEIGHTS, Bundle, load_bundle, seal
from pipelines.models.load import weights_sha256
from pipelines.registry import register
from tests.conftest import SMALL
from tests.support.bundles import make_bundle

Weights = Mapping[str, Tensor]


def config_for(bundle: Path, *extra: str) -> Config:
    arguments = ["gate.benchmark=embedded", "evaluate.metrics=[psnr_y,ssim_y]", *extra]
    return load_config([f"recipe={SMALL}", f"bundle={bundle}", *arguments])


def bundle_of(folder: Path, kind: str) -> Path:
    """A bundle that was only measured on a validation split. Its network adds nothing to the
    enlarged LR image (`plain`), or noise of a decoder that was never trained: as much as the random
    start makes (`noisy`), or far more (`broken`)."""
    bundle = make_bundle(folder / kind)
    weights = load_file(bundle.path / WEIGHTS)
    if kind == "plain":
        weights = {name: torch.zeros_like(w) for name, w in weights.items()}
    else:
        factor = {"noisy": 2, "broken": 4}[kind]
        weights = {n: w * factor if n.startswith("decoder") else w for n, w in weights.items()}
    save_file(weights, bundle.path / WEIGHTS)
    seal(bundle.path, replace(bundle.facts, weights_sha256=weights_sha256(weights)))
    return bundle.path


def gate_tag(config: Config, version: str) -> str:
    assert config.mlflow.model is not None
    found = tracking.connect(config.mlflow).get_model_version(config.mlflow.model, version)
    return str(found.tags[register.GATE_TAG])


def champion(config: Config) -> str | None:
    assert config.mlflow.model is not None
    model = tracking.connect(config.mlflow).get_registered_model(config.mlflow.model)
    alias = model.aliases.get("champion")
    return None if alias is None else str(alias)


@pytest.fixture
def few(tmp_path: Path) -> str:
    """A frozen set of parts of eight photos, 64x64 px each, as a setting."""
    folder = tmp_path / "few"
    folder.mkdir()
    for path in sorted(EMBEDDED_FOLDER.glob("*-1.webp"))[:8]:
        with Image.open(path) as image:
            image.crop((0, 0, 64, 64)).save(folder / f"{path.stem}.png")
    return f"gate.benchmark={folder}"


@pytest.mark.parametrize("place", ["database", pytest.param("server", marks=pytest.mark.slow)])
def test_a_champion_is_measured_once_and_a_broken_decoder_refused(
    tmp_path: Path,
    ran: list,
    few: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    place: str,
) -> None:
    registry: tuple[str, ...] = (few,)
    if place == "server":
        url = request.getfixturevalue("mlflow_server").url
        registry = few, f"mlflow.uri={url}", "mlflow.model=frozen"
    paths = {kind: bundle_of(tmp_path, kind) for kind in ("plain", "noisy", "broken")}
    # A champion of the time before the gate had a benchmark.
    first = config_for(paths["noisy"], "register.promote=always", *registry)
    assert register.run(first) == "1"
    assert ran == []

    capsys.readouterr()
    broken = config_for(paths["broken"], *registry)
    assert register.run(broken) == "2"
    told = capsys.readouterr().out
    name = broken.mlflow.model
    for version in "12":
        assert f"Measuring {name} version {version} on few, where it was not me" in told
    assert len(ran) == 16
    assert gate_tag(broken, "2").startswith("worse by psnr_y_crop4 and ssim_y_crop4, better by no")
    assert "better on 0% of 8 images" in gate_tag(broken, "2")
    assert champion(broken) == "1"

    # The champion's scores are kept, wherever the next gate runs.
    ran.clear()
    capsys.readouterr()
    plain = config_for(paths["plain"], f"run.scratch={tmp_path / 'another machine'}", *registry)
    assert register.run(plain) == "3"
    told = capsys.readouterr().out
    assert f"Measuring {name} version 3 on few" in told
    assert f"Measuring {name} version 1" not in told
    assert len(ran) == 8
    assert gate_tag(plain, "3").startswith("better by psnr_y_crop4 and ssim_y_crop4, worse by none")
    assert champion(plain) == "3"


@pytest.mark.parametrize("kind", ["noisy", "broken"])
def test_a_first_model_that_is_worse_than_bicubic_is_refused(
    tmp_path: Path, ran: list, few: str, kind: str
) -> None:
    config = config_for(bundle_of(tmp_path, kind), few, "gate.floor=true")
    register.run(config)
    assert gate_tag(config, "1").startswith(
        "the first model has to be better than bicubic (register.promote=always overrules that), "
        "and beside it: worse by psnr_y_crop4"
    )
    assert champion(config) is None


def with_evidence(folder: Path, config: Config, **psnr: float) -> Bundle:
    """A bundle that was measured on the gate's sets before its export, with these scores."""
    bundle = make_bundle(folder)
    rows, found = from_csv(bundle.path / IMAGES), dict(bundle.facts.metrics.benchmarks)
    for benchmark, value in zip(open_frozen(config), psnr.values(), strict=True):
        rows += [
            ImageResult(
                benchmark.name, key, benchmark.group(key), method,
                {"psnr_y_crop4": score + place / 10, "ssim_y_crop4": 0.9},
            )
            for place, key in enumerate(benchmark.keys)
            for method, score in (("bicubic", 29.0), ("run:small", value))
        ]  # fmt: skip
        found[benchmark.name] = replace(found["validation"], identity=benchmark.identity)
    metrics = replace(bundle.facts.metrics, benchmarks=found)
    (bundle.path / IMAGES).write_text(to_csv(rows, list(metrics.by)))
    seal(bundle.path, replace(bundle.facts, metrics=metrics))
    return load_bundle(bundle.path)


def test_evidence_in_the_bundle_decides_on_the_frozen_sets_alone(
    tmp_path: Path, ran: list, few: str
) -> None:
    sets = f"gate.benchmark=[embedded,{few.partition('=')[2]}]"
    config = config_for(tmp_path, sets)
    scores = {"first": (30.0, 30.0), "trade": (31.0, 29.5), "both": (30.5, 30.5)}
    bundles = {
        name: with_evidence(tmp_path / name, config, embedded=one, other=two)
        for name, (one, two) in scores.items()
    }
    # On its own validation split, which is another one, the last would be worse.
    facts = bundles["both"].facts
    split = replace(facts.metrics.benchmarks["validation"], identity="another")
    metrics = replace(facts.metrics, benchmarks=facts.metrics.benchmarks | {"validation": split})
    seal(bundles["both"].path, replace(facts, metrics=metrics))
    found = []
    for number, bundle in enumerate(bundles.values(), 1):
        config = config_for(bundle.path, sets, "gate.floor=true")
        assert register.run(config) == str(number)
        found.append((gate_tag(config, str(number)), champion(config)))
    (first, one), (trade, two), (both, three) = found
    assert ran == []
    assert (one, two, three) == ("1", "1", "3")
    assert first.startswith(
        "the first model, and beside bicubic better by psnr_y_crop4 on embedded"
    )
    assert trade.startswith("better by psnr_y_crop4 on embedded, but worse by psnr_y_crop4 on few")
    assert both.startswith("better by psnr_y_crop4 on embedded and psnr_y_crop4 on few")
    assert "validation" not in both


def test_other_metrics_and_another_degradation_are_measured_anew(
    tmp_path: Path, ran: list, few: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {kind: bundle_of(tmp_path, kind) for kind in ("noisy", "plain")}
    register.run(config_for(paths["noisy"], few, "register.promote=always"))
    # Kept for one degradation, the scores are no scores for another.
    register.run(config_for(paths["plain"], few))
    assert (len(ran), champion(config_for(paths["plain"]))) == (16, "2")
    for number, setting in enumerate(("degradation.preset=bsrgan", "evaluate.metrics=[psnr_rgb]")):
        ran.clear()
        capsys.readouterr()
        other = make_bundle(tmp_path / str(number), psnr=31.0 + number)
        register.run(config_for(other.path, few, setting))
        assert "Measuring small version 2 on few" in capsys.readouterr().out
        assert len(ran) == 16


def test_a_gate_that_cannot_measure_says_so_and_a_pinned_set_that_changed_stops_it(
    tmp_path: Path, ran: list
) -> None:
    path = bundle_of(tmp_path, "plain")
    pinned = config_for(path, "gate.digest=0")
    for start in (register.plan, register.run):
        with pytest.raises(UserError, match=r"embedded has the digest .*, and gate.digest pins 0"):
            start(pinned)
    assert register.plan(config_for(path)).endswith("promotion: gate by embedded")
    assert register.plan(config_for(path, "register.promote=never")).endswith("promotion: never")


def test_a_model_of_another_scale_is_refused_in_words(tmp_path: Path, ran: list) -> None:
    path = bundle_of(tmp_path, "plain")
    register.run(config_for(path, "register.promote=always"))
    other = make_bundle(tmp_path / "other")
    seal(other.path, replace(other.facts, scale=2))
    with_sets = config_for(other.path, "gate.benchmark=[]")
    register.run(with_sets)
    assert gate_tag(with_sets, "2").startswith("it enlarges by 2, and the champion by 4: set mlfl")
