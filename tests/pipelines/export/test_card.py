"""The model card: a reader finds the numbers of `bundle.json` in it."""

from dataclasses import replace
from pathlib import Path

from pipelines.export.card import model_card
from tests.pipelines.models.test_facts import ARTIFACT
from tests.support.bundles import make_bundle


def test_the_card_tells_the_facts(tmp_path: Path) -> None:
    facts = replace(make_bundle(tmp_path).facts, parameters=2_500_000, gmacs=1.25)
    card = model_card("A model for tests", "bsrgan", facts)
    assert card.startswith("# small\n\nA model for tests. ×4 super-resolution.\n")
    assert "- 2.50 M parameters\n- 1.25 GMACs = 2.50 GFLOPs for an LR tile of 32 px\n" in card
    protocol = facts.metrics.by["psnr_y_crop4"].protocol
    assert f"| psnr_y_crop4 | 29.2500 | 30.2500 | {protocol} |\n" in card
    assert "On 6 images of validation, LR: bicubic." in card
    assert "- dataset `m`\n- recipe `small`, configuration `d`\n- commit `c`\n" in card
    assert "edge/" not in card
    assert "Trained for bsrgan degradation." in card


def test_the_card_tells_the_evidence_for_an_artifact(tmp_path: Path) -> None:
    left_out = {"onnx_int8": "onnx_int8 loses too much."}
    facts = replace(make_bundle(tmp_path).facts, edge={"onnx_fp32": ARTIFACT}, left_out=left_out)
    card = model_card("A model for tests", "bicubic", facts)
    assert "`edge/model.onnx`: input `x_l` [1, 3, 32, 32], RGB in [0, 1]; output `x_h`\n" in card
    assert "[1, 3, 128, 128]. Larger images: cut tiles" in card
    assert "on 4 real images: largest error\n1.0e-06, inf dB. It loses 0.020 dB (95 %: -0.0" in card
    assert (
        "psnr_y_crop4, 0.0012 of lpips_alex on 16 validation tiles. Latency\n1.5 ms per tile"
        in card
    )
    assert "0.50 of PyTorch's.\nMade by onnx 1.0.\n" in card
    assert "\nLeft out: onnx_int8 loses too much.\n" in card


def test_the_card_says_that_a_simulator_ran_it(tmp_path: Path) -> None:
    artifact = replace(ARTIFACT, latency=None, latency_ratio=None)
    facts = replace(make_bundle(tmp_path).facts, edge={"qnn_sm8650": artifact})
    card = model_card("A model for tests", "bicubic", facts)
    assert "Only a simulator ran it,\nso it has no latency.\nMade by onnx 1.0.\n" in card


def test_a_metric_without_a_score_has_a_dash(tmp_path: Path) -> None:
    facts = make_bundle(tmp_path).facts
    found = facts.metrics.benchmarks["validation"]
    without = replace(found, model=found.model | {"psnr_y_crop4": None})
    metrics = replace(facts.metrics, benchmarks={"validation": found, "Set5": without})
    card = model_card("", "bicubic", replace(facts, metrics=metrics))
    assert card.index("images of validation") < card.index("| psnr_y_crop4 | 29.2500 | 30.2500 | ")
    assert card.index("images of Set5") < card.index("| psnr_y_crop4 | 29.2500 | – | ")
