"""The long proof: the shipped tiny recipe, trained for real on the sample photos."""

import json
from pathlib import Path

import pytest

from pipelines import tracking
from pipelines.config.load import load_config
from tests.conftest import Runner


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_tiny_recipe_learns_and_its_second_stage_improves_on_the_first(
    run_python: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    done = run_python("jobs/retrain.py", timeout=2300, SRMILL_HOME=str(home), RAY_ADDRESS="local")
    assert done.returncode == 0, done.stdout + done.stderr

    folder = home / "work/evaluate/edge_sd_sr_tiny-decoder"
    summary = json.loads((folder / "results.json").read_text())["benchmarks"]["validation"][
        "summary"
    ]
    after1 = summary["run:edge_sd_sr_tiny-joint"]["psnr_y_crop4"]
    after2 = summary["run:edge_sd_sr_tiny-decoder"]["psnr_y_crop4"]
    print(f"\nbicubic {summary['bicubic']['psnr_y_crop4']:.2f}, {after1:.2f}, {after2:.2f} dB")
    assert after2 > after1
    assert after2 > summary["bicubic"]["psnr_y_crop4"]

    monkeypatch.setenv("SRMILL_HOME", str(home))
    config = load_config([])
    client = tracking.connect(config.mlflow)
    for stage in ("autoencoder", "joint"):
        run = tracking.find_run(client, config.mlflow, f"edge_sd_sr_tiny-{stage}")
        history = client.get_metric_history(str(run), "train/loss")
        losses = [m.value for m in sorted(history, key=lambda m: m.step)]
        first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
        print(f"{stage}: loss {first:.4f} -> {last:.4f}")
        assert last < 0.7 * first
