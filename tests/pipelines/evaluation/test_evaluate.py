"""The evaluate job: what it is asked for, and all of it on small sets."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate, sets
from pipelines.evaluation.evaluate import choose_examples, choose_metrics, output_location
from pipelines.evaluation.results import from_csv
from pipelines.models.bundle import FILE_NAME
from pipelines.storage.folders import new_folder
from pipelines.storage.store import open_store
from srmodels.metrics.suite import SET_METRICS
from tests.conftest import SMALL
from tests.pipelines.evaluation.test_sets import MeanColour
from tests.support.bundles import make_bundle
from tests.support.results import BENCHMARK, COMPARISON, METRIC, make_results


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("run:a-b", "a-b"),
        ("models:/a@champion", "a@champion"),
        ("/x/y/", "y"),
        ("models:/a/3", "a_3"),
        ("tiny", "tiny"),
    ],
)
def test_references_become_folder_names(reference: str, expected: str) -> None:
    assert ModelReference.parse(reference).slug == expected


def test_every_set_has_a_folder_of_its_own() -> None:
    assert output_location("/out", ModelReference.parse("run:a"), None) == "/out/a"
    found = output_location("/out", ModelReference.parse("run:a"), "/b/Set5,/b/BSD100")
    assert found == "/out/a-Set5-BSD100"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SRMILL_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def chosen(metrics: str) -> tuple[list[str], str | None]:
    config = load_config([f"recipe={SMALL}", f"evaluate.metrics={metrics}"])
    found, note = choose_metrics(config.evaluate, config.crop_border)
    return list(found), note


def test_metrics_without_weights_are_left_out_loudly(no_weights: None) -> None:
    labels, note = chosen("auto")
    assert labels == ["psnr_y_crop4", "ssim_y_crop4"]
    assert note is not None
    assert note.startswith("not measured for want of weights: LPIPS (alex), NIQE (")
    assert chosen("[lpips_vgg,psnr_rgb]") == (["lpips_vgg", "psnr_rgb_crop4"], None)
    assert chosen("psnr_y") == (["psnr_y_crop4"], None)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ("[psnr]", "there is no metric 'psnr': use auto, or psnr_y, "),
        ("[]", "names no metric of single images, or one twice"),
        ("[fid]", "names no metric of single images, or one twice"),
        ("[psnr_y,psnr_y]", "names no metric of single images, or one twice"),
    ],
)
def test_metrics_that_are_none_are_refused(metrics: str, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        chosen(metrics)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("model=no_such", "there is no model 'no_such': give a bundle directory"),
        ("evaluate.compare=[bicubc]", "there is no model 'bicubc'"),
        ("evaluate.compare=[onnx:no.onnx]", "there is no file"),
        ("evaluate.compare=[spandrel:no.pth]", "there is no file"),
        ("benchmark=no_such", "there is no benchmark set 'no_such'"),
    ],
)
def test_what_is_not_there_is_refused_by_the_plan(key: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        evaluate.plan(load_config([f"recipe={SMALL}", key]))


@pytest.mark.parametrize("start", [evaluate.plan, evaluate.run])
def test_a_folder_of_somebody_else_is_not_replaced(
    tmp_path: Path, start: Callable[[Config], object]
) -> None:
    thesis = tmp_path / "candidate" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("1")
    config = load_config([f"recipe={SMALL}", "model=/bundles/candidate", f"output={tmp_path}"])
    with pytest.raises(UserError, match=r"candidate holds files that SRMill did not write"):
        start(config)
    assert thesis.read_text() == "1"


def test_what_may_be_there_by_then_is_planned() -> None:
    config = load_config([f"recipe={SMALL}", "evaluate.compare=[lanczos,run:later,models:/m@old]"])
    assert "against bicubic, lanczos, run:later, models:/m@old on" in evaluate.plan(config)


def test_best_and_worst_are_shown_by_turns() -> None:
    comparison = replace(COMPARISON, best=["a", "b"], worst=["c", "a"])
    metrics = {
        "psnr": replace(METRIC, title="PSNR"),
        "lpips": replace(METRIC, title="LPIPS"),
        "niqe": replace(METRIC, title="NIQE", has_reference=False),
    }
    found = replace(BENCHMARK, comparisons={"span": {"lpips": comparison}})
    results = make_results(
        titles={"bicubic": "bicubic", "span": "SPAN", "m": "model"},
        metrics=metrics,
        benchmarks={"one": found, "two": found},
    )
    assert [entry[:2] for entry in choose_examples(results, 5)] == [
        ("one", "a"), ("two", "a"), ("one", "c"), ("two", "c"), ("one", "b"),
    ]  # fmt: skip
    assert choose_examples(results, 1)[0][2] == "best beside SPAN by LPIPS"
    assert len(choose_examples(results, 9)) == 6  # 'a' is not shown twice


@pytest.fixture
def benchmark(tmp_path: Path, photos: Path) -> Path:
    """Three photos of 256x192 px, of which one is broken."""
    folder = tmp_path / "three"
    folder.mkdir()
    for path in sorted(photos.iterdir())[:3]:
        with Image.open(path) as image:
            image.crop((0, 0, 256, 192)).save(folder / path.name)
    broken = sorted(folder.iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:2000])
    return folder


def test_a_model_on_a_benchmark_set(
    tmp_path: Path,
    benchmark: Path,
    no_weights: None,
    ran: list,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_bundle(tmp_path / "candidate")

    def run(*extra: str) -> str:
        arguments = [
            f"recipe={SMALL}", f"model={tmp_path / 'candidate'}", f"benchmark={benchmark}",
            "evaluate.latency_sizes=[16,24]", "evaluate.latency_runs=2",
            f"output={tmp_path / 'out'}",
        ]  # fmt: skip
        evaluate.run(load_config([*arguments, *extra]))
        return capsys.readouterr().out

    said = run("evaluate.compare=[lanczos]")
    folder = tmp_path / "out" / "candidate-three"
    assert f"Report: {folder / 'report.html'}" in said
    assert "Note: not measured for want of weights: LPIPS (alex), NIQE (" in said
    assert "three: 2 images" in said
    broken = sorted(benchmark.iterdir())[2].name
    assert f"not measured: {broken}: truncated or corrupt" in said

    model = str(tmp_path / "candidate")
    results = json.loads((folder / "results.json").read_text())
    found = results["benchmarks"]["three"]
    assert list(found["summary"]) == ["bicubic", "lanczos", model]
    assert found["comparisons"].keys() == {"bicubic", "lanczos"}
    rows = from_csv(folder / "images.csv")
    assert len(rows) == 6
    ours = [row.scores["psnr_y_crop4"] for row in rows if row.method == "model"]
    assert found["summary"][model]["psnr_y_crop4"] == pytest.approx(np.mean(ours), abs=1e-6)
    costs = results["costs"]
    assert [latency["size"] for latency in costs[model]["latencies"]] == [16, 24]
    assert costs[model]["parameters"] > 0
    assert costs[model]["gmacs"] > 0
    assert len(list((folder / "pictures").iterdir())) == 2

    # A picture of somebody else among the results keeps them.
    (folder / "pictures" / "holiday.png").write_bytes(b"1")
    with pytest.raises(UserError, match=r"did not write \(pictures/holiday\.png\)"):
        run()
    (folder / "pictures" / "holiday.png").unlink()

    # Results that another SRMill wrote are no results.
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    ran.clear()
    said = run("evaluate.compare=[lanczos]")
    assert "Evaluating anew, since" in said
    assert "has schema version 0, this SRMill reads 1" in said
    assert [key for key, _ in ran] == [broken]

    # Again: all is there. With fewer methods, none is measured but on the image that was broken.
    ran.clear()
    assert "Nothing to do" in run("evaluate.compare=[lanczos]")
    assert ran == []
    assert "Report:" in run("evaluate.num_pictures=1")
    assert [key for key, _ in ran] == [broken]


def test_a_model_and_its_results_in_a_bucket(
    tmp_path: Path,
    benchmark: Path,
    no_weights: None,
    ran: list,
    s3_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make_bundle(tmp_path / "candidate")
    model = f"{s3_url}/candidate"
    arguments = [
        f"recipe={SMALL}", f"model={model}", f"benchmark={benchmark}", f"output={s3_url}/out",
        "evaluate.latency_sizes=[16]", "evaluate.latency_runs=1", "evaluate.num_pictures=1",
        "evaluate.metrics=[psnr_y]",
    ]  # fmt: skip
    with pytest.raises(UserError, match=rf"there is no bundle in {model} \(no bundle\.json\)"):
        evaluate.plan(load_config(arguments))
    with new_folder(open_store(model), FILE_NAME, lambda: None) as folder:
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
    config = load_config(arguments)
    report = f"{s3_url}/out/candidate-three/report.html"
    assert f"write the report to {report}" in evaluate.plan(config)
    capsys.readouterr()
    assert evaluate.run(config) == report
    store = open_store(f"{s3_url}/out/candidate-three")
    assert store.names() == ["images.csv", "pictures/three-1.png", "report.html", "results.json"]
    results = json.loads(store.read("results.json"))
    assert list(results["benchmarks"]["three"]["summary"]) == ["bicubic", model]

    # Again: all is there. What changes the report alone measures nothing again but the broken one.
    ran.clear()
    capsys.readouterr()
    assert evaluate.run(config) == report
    assert f"measured already, see {report}." in capsys.readouterr().out
    config.evaluate.num_pictures = 0
    evaluate.run(config)
    assert [key for key, _ in ran] == [sorted(benchmark.iterdir())[2].name]
    assert store.names() == ["images.csv", "report.html", "results.json"]


def test_a_set_without_an_image_that_can_be_measured_is_refused(tmp_path: Path, ran: list) -> None:
    make_bundle(tmp_path / "candidate")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"nothing")
    config = load_config(
        [f"recipe={SMALL}", f"model={tmp_path / 'candidate'}", f"benchmark={tmp_path / 'set'}",
         "evaluate.metrics=psnr_y"]
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no image of set can be measured: a\.png: not an image"):
        evaluate.run(config)


def test_a_method_of_another_scale_is_refused(tmp_path: Path, benchmark: Path) -> None:
    make_bundle(tmp_path / "candidate")
    config = load_config(
        [f"recipe={SMALL}", f"model={tmp_path / 'candidate'}", f"benchmark={benchmark}",
         "networks.scale=2", "evaluate.metrics=psnr_y"]
    )  # fmt: skip
    with pytest.raises(UserError, match="enlarges by 4, the recipe by 2: set recipe="):
        evaluate.run(config)


def test_another_network_of_fid_is_measured_anew(
    tmp_path: Path,
    benchmark: Path,
    ran: list,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_bundle(tmp_path / "candidate")
    monkeypatch.setattr(
        sets,
        "_run",
        lambda benchmark, method, score, keys: [np.arange(3) + n for n, _ in enumerate(keys)],
    )

    def run(network: bytes) -> str:
        score = MeanColour()
        score.data = network
        fid = replace(SET_METRICS["fid"], create=lambda: score)
        monkeypatch.setitem(SET_METRICS, "fid", fid)
        arguments = [
            f"recipe={SMALL}", f"model={tmp_path / 'candidate'}", f"benchmark={benchmark}",
            "evaluate.latency_sizes=[16]", "evaluate.latency_runs=1", "evaluate.num_pictures=1",
            "evaluate.metrics=[psnr_y,fid]", f"output={tmp_path / 'out'}",
        ]  # fmt: skip
        evaluate.run(load_config(arguments))
        return capsys.readouterr().out

    assert "Report:" in run(b"one")
    assert "Nothing to do" in run(b"one")
    assert "Nothing to do" not in run(b"another")
