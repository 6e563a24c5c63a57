"""The page that shows what the gate compared."""

from pathlib import Path

from pipelines.registry import decision_page
from pipelines.registry.gate import Decision
from tests.pipelines.registry.test_gate import decide, with_set
from tests.support.bundles import make_bundle


def test_a_refusal_is_drawn_with_its_figures(tmp_path: Path) -> None:
    champion = with_set(make_bundle(tmp_path / "champion", psnr=30.0), "Set5", 33.0)
    candidate = with_set(make_bundle(tmp_path / "candidate", psnr=30.5), "Set5", 32.0)
    decision = decide(candidate, champion)
    page = decision_page.render("small", "2", decision)
    assert "<h1>small version 2 at the gate</h1>" in page
    assert '<p class="sentence">Not promoted</p>' in page
    assert f"<p>{decision.reason}.</p>" in page
    assert "<h2>Beside the champion</h2>" in page
    assert page.count("<svg") == 1
    row = page[page.index("<td>psnr_y_crop4 on Set5</td>") :].partition("</tr>")[0]
    for cell in ("-1.000 dB", "-1.000 dB … -1.000 dB", "0.020 dB", "0% of 6 images"):
        assert f"<td>{cell}</td>" in row
    assert '<td class="bad">worse</td>' in row
    # Gains in margins: +25 on one set, -50 on the other.
    found = {t: decision_page._in_margins(*c) for t, c in decision.compared.items()}
    for title, gain, kind in (("validation", 25.0, "better"), ("Set5", -50.0, "worse")):
        drawn = found[f"psnr_y_crop4 on {title}"]
        assert drawn is not None
        assert [round(value, 6) for value in drawn[:3]] == [gain] * 3
        assert drawn[3] == kind


def test_the_first_model_stands_beside_bicubic(tmp_path: Path) -> None:
    page = decision_page.render("small", "1", decide(make_bundle(tmp_path, psnr=29.5), None))
    assert '<p class="sentence">Promoted</p>' in page
    assert "<h2>Beside bicubic</h2>" in page


def test_names_are_text_and_no_html() -> None:
    page = decision_page.render("<b>x", "1", Decision(False, "<script>", "the champion"))
    assert "<b>x" not in page
    assert "<p>&lt;script&gt;.</p>" in page
