"""Shadow reports: real photos, a real MLflow, and a history that loses no record."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.reference import SHIPPED, ModelReference
from pipelines.config.schema import Config
from pipelines.data.order import sample_seed
from pipelines.data.sources import SAMPLE
from pipelines.errors import UserError
from pipelines.evaluation import shadow
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.plots import over_time
from pipelines.evaluation.shadow_history import (
    QUANTITIES,
    Figure,
    History,
    ShadowRecord,
    expected,
    judged,
    sentence,
)
from pipelines.evaluation.shadow_page import render
from pipelines.evaluation.shadow_photos import find_fresh, of_photo, part
from pipelines.evaluation.side_by_side import Subject
from pipelines.models.bundle import load_bundle
from pipelines.notify.channels import WEBHOOK
from pipelines.storage.store import open_store
from srmodels.metrics.niqe import NIQE
from tests.conftest import needs_weights
from tests.support.browser import browser, screen  # noqa: F401
from tests.support.receivers import WebhookServer

SUBJECT = Subject("m", "models:/m/1", "0123456789abcdef" * 4, 1)
PHOTOS = sorted(SAMPLE.glob("*.jpg"))
#: Width and height of what `add_photos` adds.
SMALL = 130, 90


def add_photos(folder: Path, tick: int, count: int = 3, dark: bool = False) -> None:
    """Adds parts of real photos, as they might come in; slightly others at each tick."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        with Image.open(PHOTOS[number]) as image:
            small = image.convert("RGB").resize((image.width // 6, image.height // 6))
        crop = small.crop((2 * tick, number, 2 * tick + SMALL[0], number + SMALL[1]))
        if dark:
            crop = crop.filter(ImageFilter.GaussianBlur(4)).point(lambda level: level // 8)
        crop.save(folder / f"{tick}-{number}.png")


def config_for(folder: Path | str, *extra: str) -> Config:
    return load_config([f"source={folder}", "model=bicubic", "shadow.crop=64", *extra])


def history_of(tmp_path: Path, name: str = "bicubic") -> list[ShadowRecord]:
    return History(open_store(tmp_path / "home" / "work" / "shadow" / name)).read()


def record(mean: float = 5.0, number: int = 0, **changes: Any) -> ShadowRecord:
    values: dict[str, Any] = {
        "time": f"2026-11-29T08:00:{number % 60:02}.000Z", "source": "s", "protocol": "p",
        "model": SUBJECT, "identity": "i", "new": [f"{number:016x}"],
        "figures": {name: Figure(mean, 1.0, 32) for name in ("niqe", "brightness")},
    }  # fmt: skip
    return ShadowRecord(**values | changes)


def test_a_tick_measures_what_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_weights()
    folder = tmp_path / "photos"
    add_photos(folder, 0)
    config = config_for(folder, "model=rdsr", "shadow.num_photos=2")
    assert "on 2 of 3 new photos (3 in all)" in shadow.plan(config)
    page = shadow.run(config)
    said = capsys.readouterr().out
    assert "No verdict on drift yet: it takes 5 earlier ticks" in said
    assert page == str(tmp_path / "home" / "work" / "shadow" / "rdsr" / "shadow.html")
    (found,) = history_of(tmp_path, "rdsr")
    assert len(found.new) == 3
    assert found.model.digest == load_bundle(SHIPPED / "rdsr").facts.weights_sha256

    method, niqe = open_method(ModelReference.parse("rdsr"), config), NIQE()
    drawn = find_fresh(config, str(folder), []).drawn(2, config.seed)
    values: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for key, entry in drawn.items():
        pixels = np.asarray(Image.open(folder / entry.name))
        crop = pixels[part(pixels.shape, 64, sample_seed(config.seed, key, 1))]
        for name, value in of_photo(pixels).items():
            values[name].append(value)
        values["niqe"].append(niqe(method(crop)))
        values["broken"].append(0.0)
    for name, figure in found.figures.items():
        assert figure.mean == pytest.approx(np.mean(values[name])), name
        assert figure.deviation == pytest.approx(np.std(values[name], ddof=1)), name
        assert (figure.count, figure.low) == (2, None)

    # Nothing is new: nothing is measured and nothing written.
    before = Path(page).stat().st_mtime_ns
    shadow.run(config)
    said = capsys.readouterr().out
    assert f"Nothing to do: earlier ticks have seen all 3 photos of {folder}" in said
    assert (len(history_of(tmp_path, "rdsr")), Path(page).stat().st_mtime_ns) == (1, before)


def test_drift_is_told_at_the_tick_at_which_it_begins_and_until_somebody_acts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    webhook: WebhookServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs_weights()
    monkeypatch.setenv(WEBHOOK, webhook.url)
    folder = tmp_path / "photos"
    # Of whole photos: which parts are drawn hangs on the folder's name, and one set of parts in
    # twenty lies outside a confidence of 95 %.
    config = config_for(folder, "shadow.min_ticks=4", f"shadow.crop={max(SMALL)}")
    verdicts = []
    for tick in range(8):
        add_photos(folder, tick, dark=tick >= 6)
        shadow.run(config)
        said = capsys.readouterr().out
        verdicts.append(re.search(r"^(No verdict|No drift|Drift)\b.*$", said, re.MULTILINE)[1])  # type: ignore[index]
        if tick == 6:
            assert re.search(r"^Drift: .*brightness is \d+\.\d \(expected \d.* … \d", said, re.M)
    assert verdicts == ["No verdict"] * 4 + ["No drift"] * 2 + ["Drift"] * 2
    # Each tick that drifted was told, and no other.
    assert webhook.events == ["drift"] * 2
    text = webhook.got[0][2]["text"]
    assert text.startswith("bicubic sees other photos than before: Drift: ")
    assert "brightness is" in text
    records = history_of(tmp_path)
    assert "brightness" in records[-1].drifted
    html = (tmp_path / "home" / "work" / "shadow" / "bicubic" / "shadow.html").read_text()
    assert html.count("<svg") == len(records[-1].figures)

    # MLflow has the same figures, each tick once.
    client = tracking.connect(config.mlflow)
    run_id = tracking.find_run(client, config.mlflow, "shadow-bicubic")
    assert run_id is not None
    for name in ("niqe", "brightness"):
        logged = sorted(client.get_metric_history(run_id, f"shadow/{name}"), key=lambda m: m.step)
        assert [metric.value for metric in logged] == [r.figures[name].mean for r in records]
    drifted = client.get_metric_history(run_id, "shadow/drift")
    assert [metric.value > 0 for metric in drifted] == [False] * 6 + [True] * 2
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_tick_that_ended_before_mlflow_had_it_is_logged_by_the_next(tmp_path: Path) -> None:
    needs_weights()
    add_photos(tmp_path / "photos", 0)
    config = config_for(tmp_path / "photos")
    history = History(open_store(tmp_path / "home" / "work" / "shadow" / "bicubic"))
    history.add(record(7.5))
    shadow.run(config)
    client = tracking.connect(config.mlflow)
    run_id = str(tracking.find_run(client, config.mlflow, "shadow-bicubic"))
    logged = client.get_metric_history(run_id, "shadow/niqe")
    assert sorted(metric.step for metric in logged) == [0, 1]
    assert 7.5 in [metric.value for metric in logged]


def test_photos_and_history_may_lie_in_a_bucket(tmp_path: Path, s3_url: str) -> None:
    needs_weights()
    add_photos(tmp_path / "photos", 0)
    store = open_store(f"{s3_url}/in")
    for path in (tmp_path / "photos").iterdir():
        store.write_file(f"day/{path.name}", path)
    store.write("day/broken.png", b"not a picture")
    config = config_for(f"{s3_url}/in", f"output={s3_url}/out")
    assert shadow.run(config) == f"{s3_url}/out/bicubic/shadow.html"
    history = History(open_store(f"{s3_url}/out/bicubic"))
    (found,) = history.read()
    assert found.figures["broken"].mean == 0.25
    assert found.figures["niqe"].count == 3
    assert b"<svg" in history.store.read("shadow.html")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_ticks_at_the_same_time_lose_no_record(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    location = request.getfixturevalue("s3_url") if place == "bucket" else str(tmp_path / "h")
    records = [record(number=number) for number in range(24)]
    with ThreadPoolExecutor(12) as threads:
        # Each has a store of its own, and every tick is there twice, as if two jobs had begun.
        list(threads.map(lambda r: History(open_store(location)).add(r), records * 2))
    assert History(open_store(location)).read() == records


def test_a_seed_draws_which_photos_are_measured(tmp_path: Path) -> None:
    add_photos(tmp_path / "photos", 0, count=8)
    config = config_for(tmp_path / "photos")
    fresh = find_fresh(config, str(tmp_path / "photos"), [])
    assert len(fresh.new) == 8
    assert fresh.drawn(3, 0) == find_fresh(config, str(tmp_path / "photos"), []).drawn(3, 0)
    draws = {tuple(sorted(fresh.drawn(3, seed))) for seed in range(20)}
    assert len(draws) > 10
    # What an earlier tick has seen is not new, measured or not.
    seen = record(new=sorted(fresh.new)[:5])
    assert len(find_fresh(config, str(tmp_path / "photos"), [seen]).new) == 3


def test_sharpness_brightness_and_contrast_are_what_they_say() -> None:
    flat = np.full((60, 80, 3), 77, np.uint8)
    assert of_photo(flat) == {
        "sharpness": 0.0, "brightness": 77.0, "contrast": 0.0, "megapixels": 0.0048,
    }  # fmt: skip
    with Image.open(PHOTOS[0]) as image:
        sharp, soft = image.convert("RGB"), image.convert("RGB").filter(ImageFilter.GaussianBlur(2))
    luma = np.asarray(sharp) @ [0.299, 0.587, 0.114]
    found = of_photo(np.asarray(sharp))
    assert found["brightness"] == pytest.approx(luma.mean(), abs=0.01)
    assert found["contrast"] == pytest.approx(luma.std(), abs=0.01)
    assert of_photo(np.asarray(soft))["sharpness"] < found["sharpness"] / 3


@pytest.mark.parametrize(("ticks", "count"), [(5, 32), (12, 32), (12, 4)])
def test_the_interval_holds_as_often_as_it_says(ticks: int, count: int) -> None:
    """Ticks of 32 photos differ by themselves and by their photos; the next has `count`."""
    random, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        figures = [tick(random, 32) for _ in range(ticks)]
        low, high = expected(figures, count, 0.9)
        inside += low <= tick(random, count).mean <= high
    assert inside / 2000 == pytest.approx(0.9, abs=0.02)


def tick(random: np.random.Generator, count: int) -> Figure:
    values = random.normal(5.0, 0.2) + random.normal(0.0, 1.0, count)
    return Figure(float(values.mean()), float(values.std(ddof=1)), count)


def test_only_ticks_that_are_alike_are_compared() -> None:
    random = np.random.default_rng(0)
    means = random.normal(5.0, 0.1, 8)
    alike = [record(float(mean), number) for number, mean in enumerate(means)]
    now = record(9.0, 99)

    def drifted(earlier: list[ShadowRecord]) -> list[str] | None:
        figures = judged(now.figures, now, earlier, 5)
        if all(figure.low is None for figure in figures.values()):
            return None
        return replace(now, figures=figures).drifted

    assert drifted(alike) == ["niqe", "brightness"]
    assert drifted(alike[:4]) is None
    assert drifted([replace(r, source="other") for r in alike]) is None
    assert drifted([replace(r, protocol="other") for r in alike]) is None
    # Of another model, what is of the photos alone is compared.
    assert drifted([replace(r, identity="other") for r in alike]) == ["brightness"]
    # A tick that drifted is not what the next one is to be like.
    far = {name: replace(figure, mean=9.0, drift=True) for name, figure in now.figures.items()}
    assert drifted([*alike, *(replace(r, figures=far) for r in alike)]) == ["niqe", "brightness"]
    calm = {name: replace(figure, drift=False) for name, figure in far.items()}
    assert drifted([*alike, *(replace(r, figures=calm) for r in alike)]) == []


def test_a_difference_that_matters_to_nobody_is_no_drift() -> None:
    alike = [record(5.0 + number / 1e6, number) for number in range(6)]
    near = record(5.04, 99)
    figures = judged(near.figures, near, alike, 5)
    assert figures["niqe"].high is not None
    assert figures["niqe"].mean > figures["niqe"].high
    assert not figures["niqe"].drift
    told = replace(near, figures=figures)
    assert sentence(told, 5).startswith("No drift: niqe is 5.04 (expected 5.00 … 5.00), brightness")


def test_each_interval_of_several_is_wider_than_one_alone() -> None:
    alike = [record(5.0 + number % 3 / 10, number) for number in range(6)]
    now = record(5.1, 99)
    one = judged({"niqe": now.figures["niqe"]}, now, alike, 5)["niqe"]
    two = judged(now.figures, now, alike, 5)["niqe"]
    assert one.low is not None
    assert two.low is not None
    assert two.low < one.low


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("source=", "a shadow report needs fresh photos: set source="),
        ("model=nosuch", "there is no model 'nosuch'"),
        ("model=models:/nosuch@champion", "has no model 'models:/nosuch@champion'"),
        ("output=mine", r"mine/bicubic holds files that SRMill did not write \(note\.txt\)"),
        ("output=damaged", r"records/0123456789abcdef\.json is damaged .*delete it, and the other"),
        ("source=empty", "source 'empty' holds no photo"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path: Path, extra: str, message: str) -> None:
    home = tmp_path / "home"
    for name, file in (("mine", "note.txt"), ("damaged", "records/0123456789abcdef.json")):
        path = home / name / "bicubic" / file
        path.parent.mkdir(parents=True)
        path.write_text("x")
    (home / "empty").mkdir()
    add_photos(tmp_path / "photos", 0)
    with pytest.raises(UserError, match=message):
        shadow.run(config_for(tmp_path / "photos", extra))
    assert not (home / "work" / "shadow").exists()


def test_without_the_weights_of_niqe_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    add_photos(tmp_path / "photos", 0)
    with pytest.raises(UserError, match="the weights 'niqe_pristine' cannot be had"):
        shadow.run(config_for(tmp_path / "photos"))
    assert not (tmp_path / "home" / "work" / "shadow").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seconds", [0.001, 20, 3600, 86_400, 7 * 86_400])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_ticks_of_any_schedule_can_be_drawn(seconds: float, count: int) -> None:
    begin = datetime(2026, 11, 29, 8, tzinfo=UTC)
    times = [begin + timedelta(seconds=seconds * number) for number in range(count)]
    marked = [number == 2 for number in range(count)]
    svg = over_time(times, [5.0] * count, [(4.0, 6.0)] * count, marked, times[1:2], "niqe")
    assert svg.startswith("<svg")
    assert svg.count("#e8762c") >= any(marked)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_is_drawn_in_a_browser(
    tmp_path: Path,
    browser: Any,  # noqa: F811
    width: int,
    scheme: str,
) -> None:
    from selenium.webdriver.common.by import By

    records: list[ShadowRecord] = []
    for number in range(9):
        now = record(5.0 + number % 3 / 10 if number < 8 else 9.0, number)
        now = replace(now, identity="i" if number < 4 else "j")
        records.append(replace(now, figures=judged(now.figures, now, records, 3)))
    page = tmp_path / "shadow.html"
    elsewhere = replace(records[0], source="another", time="2026-11-28T08:00:00.000Z")
    page.write_text(render([elsewhere, *records], 3))
    assert page.read_text().count("<tr><td>2026-11-2") == len(records)
    assert not re.search(r'(src|href)="(?!data:|#)', page.read_text())
    screen(browser, width, 900, scheme)
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawings = browser.find_elements(By.CSS_SELECTOR, "figure svg")
    assert len(drawings) == 2
    assert all(drawing.size["height"] > 100 for drawing in drawings)
    sentences = [e.text for e in browser.find_elements(By.CSS_SELECTOR, ".sentence")]
    assert sentences == [sentence(records[-1], 3)]
    assert sentences[0].startswith("Drift: niqe is 9.00 (expected ")
