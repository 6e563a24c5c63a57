"""Who becomes champion, by the paired comparison of two bundles."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.models.bundle import Bundle, load_bundle, seal
from pipelines.registry.gate import decide
from tests.support.bundles import make_bundle


def test_the_first_one_is_champion(tmp_path: Path) -> None:
    assert decide(make_bundle(tmp_path), None).promote


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


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion")
    candidate = make_bundle(tmp_path / "candidate", psnr=40.0)
    assert decide(candidate, champion).promote
    by = candidate.facts.metrics.by
    other = by | {"ssim_y_crop4": replace(by["ssim_y_crop4"], protocol="another")}
    for changes, why in (
        ({"identity": "j"}, "measured on other images, or with another degradation"),
        ({"by": {"psnr_y_crop4": by["psnr_y_crop4"]}}, "measured by ssim_y_crop4, too"),
        ({"by": other}, "measured by another protocol of ssim_y_crop4"),
    ):
        decision = decide(reseal(candidate, **{"identity": "i", "by": by} | changes), champion)
        assert not decision.promote
        assert why in decision.reason
    (champion.path / "images.csv").unlink()
    decision = decide(reseal(candidate, identity="i", by=by), reseal(champion))
    assert not decision.promote
    assert "the champion's bundle holds no images.csv" in decision.reason


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
