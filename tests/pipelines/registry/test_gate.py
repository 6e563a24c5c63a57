"""Who becomes champion, by the paired comparison of two bundles."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.schema import GateConfig
from pipelines.evaluation.results import from_csv, to_csv
from pipelines.models.bundle import IMAGES, Bundle, load_bundle, seal
from pipelines.models.facts import BenchmarkFacts
from pipelines.registry import gate
from pipelines.registry.evidence import Contender
from pipelines.registry.gate import Decision
from tests.support.bundles import make_bundle

FLOOR = (
    "the first model has to be better than bicubic (register.promote=always overrules that), and "
    "beside it: "
)


def decide(candidate: Bundle, champion: Bundle | None, **settings: object) -> Decision:
    known = Contender.of(champion) if champion else None
    return gate.decide(Contender.of(candidate), known, GateConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("psnr", "ssim", "promote", "reason"),
    [
        (29.5, 0.85, True, "the first model, and beside bicubic better by psnr_y_crop4 and "
         "ssim_y_crop4, worse by none: psnr_y_crop4 +0.500 dB (95 % +0.500 … +0.500, "),
        (28.5, 0.79, False, f"{FLOOR}worse by psnr_y_crop4 and ssim_y_crop4, better by n"),
        (29.5, 0.79, False, f"{FLOOR}better by psnr_y_crop4, but worse by ssim_y_crop4"),
        (29.0, 0.8, False, f"{FLOOR}no difference that matters"),
    ],
)  # fmt: skip
def test_the_first_one_has_to_be_better_than_bicubic(
    tmp_path: Path, psnr: float, ssim: float, promote: bool, reason: str
) -> None:
    bundle = make_bundle(tmp_path, psnr=psnr, ssim=ssim)
    decision = decide(bundle, None)
    assert decision.reason.startswith(reason)
    assert decision.promote == promote
    assert decide(bundle, None, floor=False) == Decision(True, "there was no champion")


def test_one_photo_is_no_proof_that_the_first_one_is_better(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    path = bundle.path / IMAGES
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if row.startswith("benchmark") or ",a," in row))
    decision = decide(reseal(bundle), None)
    assert not decision.promote
    assert "these images cannot tell which one is better" in decision.reason


@pytest.mark.parametrize(
    ("psnr", "ssim", "promote", "reason"),
    [
        (30.5, 0.9, True, "better by psnr_y_crop4, worse by none: psnr_y_crop4 +0.500 dB "
         "(95 % +0.500 … +0.500, better on 100% of 6 images)"),
        (29.5, 0.9, False, "worse by psnr_y_crop4, better by none"),
        (30.5, 0.89, False, "better by psnr_y_crop4, but worse by ssim_y_crop4"),
        (30.0, 0.9, True, "no difference that matters"),
        # Within the margin: no reason to change, unless nothing is behind.
        (30.01, 0.9, True, "no difference that matters"),
        (29.99, 0.9, False, "no difference that matters"),
        (30.01, 0.8999, False, "no difference that matters"),
    ],
)  # fmt: skip
def test_better_by_one_and_worse_by_none(
    tmp_path: Path, psnr: float, ssim: float, promote: bool, reason: str
) -> None:
    champion = make_bundle(tmp_path / "champion", psnr=30.0, ssim=0.9)
    decision = decide(make_bundle(tmp_path / "candidate", psnr=psnr, ssim=ssim), champion)
    assert decision.reason.startswith(reason)
    assert decision.promote == promote


def test_what_the_images_cannot_tell_changes_nothing(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion")
    candidate = make_bundle(tmp_path / "candidate")
    rows = (tmp_path / "candidate" / "images.csv").read_text().splitlines(keepends=True)
    # Better on average, by one photo alone.
    for number, row in enumerate(rows):
        if row.startswith("validation,a-0000,a,run:small"):
            rows[number] = row.replace("30.000000", "36.000000")
    (tmp_path / "candidate" / "images.csv").write_text("".join(rows))
    decision = decide(reseal(candidate), champion)
    assert not decision.promote
    assert decision.reason.startswith("these images cannot tell which one is better")


def reseal(bundle: Bundle, **metrics: object) -> Bundle:
    changed = replace(bundle.facts.metrics, **metrics)  # type: ignore[arg-type]
    seal(bundle.path, replace(bundle.facts, metrics=changed))
    return load_bundle(bundle.path)


def with_identity(bundle: Bundle, identity: str) -> dict[str, BenchmarkFacts]:
    found = bundle.facts.metrics.benchmarks["validation"]
    return {"validation": replace(found, identity=identity)}


def with_set(bundle: Bundle, name: str, psnr: float, groups: str = "abcdef") -> Bundle:
    """Adds a benchmark set whose images have the keys of the first, in these groups."""
    rows = from_csv(bundle.path / IMAGES)
    for row, group in zip(list(rows), [g for g in groups for _ in range(2)], strict=True):
        scores = {"psnr_y_crop4": psnr + ord(row.group) / 10, "ssim_y_crop4": 0.9}
        rows.append(replace(row, benchmark=name, group=group, scores=scores))
    (bundle.path / IMAGES).write_text(to_csv(rows, list(bundle.facts.metrics.by)))
    known = bundle.facts.metrics.benchmarks
    return reseal(bundle, benchmarks=known | {name: replace(known["validation"], identity=name)})


def test_every_benchmark_set_counts(tmp_path: Path) -> None:
    champion = with_set(make_bundle(tmp_path / "champion", psnr=30.0), "Set5", 33.0)
    better, worse = (make_bundle(tmp_path / name, psnr=30.5) for name in ("better", "worse"))
    decision = decide(with_set(worse, "Set5", 20.0), champion)
    assert not decision.promote
    assert decision.reason.startswith(
        "better by psnr_y_crop4 on validation, but worse by psnr_y_crop4 on Set5"
    )
    assert "psnr_y_crop4 on Set5 -13.000 dB (95 % -13.000 … -13.000" in decision.reason
    decision = decide(with_set(better, "Set5", 33.1), champion)
    assert decision.promote
    assert decision.reason.startswith(
        "better by psnr_y_crop4 on validation and psnr_y_crop4 on Set5, worse by none: "
    )


def test_a_set_of_the_champion_must_be_measured_by_any_name(tmp_path: Path) -> None:
    champion = with_set(make_bundle(tmp_path / "champion"), "Set5", 33.0)
    decision = decide(make_bundle(tmp_path / "candidate", psnr=40.0), champion)
    assert not decision.promote
    assert "the champion was measured on Set5, too" in decision.reason
    # What the candidate was measured on beside that has nothing to be compared with.
    more = with_set(make_bundle(tmp_path / "more", psnr=40.0), "Set14", 20.0)
    assert decide(more, make_bundle(tmp_path / "first")).promote
    renamed = with_set(make_bundle(tmp_path / "renamed", psnr=40.0), "five", 34.0)
    known = renamed.facts.metrics.benchmarks
    same = known | {"five": replace(known["five"], identity="Set5")}
    assert decide(reseal(renamed, benchmarks=same), champion).promote


def test_groups_of_one_name_in_two_sets_are_not_one_photo(tmp_path: Path) -> None:
    # All images of the second set are of one photo, and have the keys of the first set's six.
    pair = (with_set(make_bundle(tmp_path / n, psnr=p), "Set5", p, "aaaaaa")
            for n, p in (("champion", 30.0), ("candidate", 30.5)))  # fmt: skip
    champion, candidate = pair
    reason = decide(candidate, champion).reason
    assert "psnr_y_crop4 on validation +0.500 dB (95 % +0.500 … +0.500" in reason
    assert "psnr_y_crop4 on Set5 +0.500 dB (no interval, since all images are of one" in reason


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion")
    candidate = make_bundle(tmp_path / "candidate", psnr=40.0)
    assert decide(candidate, champion).promote
    by = candidate.facts.metrics.by
    other = by | {"ssim_y_crop4": replace(by["ssim_y_crop4"], protocol="another")}
    same, others = (with_identity(candidate, identity) for identity in "ij")
    for changes, why in (
        ({"benchmarks": others}, "measured on other images, or with another degradation"),
        ({"by": {"psnr_y_crop4": by["psnr_y_crop4"]}}, "measured by ssim_y_crop4, too"),
        ({"by": other}, "measured by another protocol of ssim_y_crop4"),
    ):
        decision = decide(reseal(candidate, **{"benchmarks": same, "by": by} | changes), champion)
        assert not decision.promote
        assert why in decision.reason


def test_what_has_no_reference_does_not_decide(tmp_path: Path) -> None:
    champion, candidate = (make_bundle(tmp_path / n, psnr=p) for n, p in (("a", 30), ("b", 29)))
    known = champion.facts.metrics.by
    by = known | {"psnr_y_crop4": replace(known["psnr_y_crop4"], has_reference=False)}
    assert decide(reseal(candidate, by=by), reseal(champion, by=by)).promote


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    champion, candidate = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b", psnr=40.0)
    path = tmp_path / "b" / "images.csv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if ",f," not in row))
    decision = decide(reseal(candidate), champion)
    assert not decision.promote
    assert "not the same images have a psnr_y_crop4 in both bundles" in decision.reason
