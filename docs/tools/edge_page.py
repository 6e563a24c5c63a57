"""Writes the tables of docs/edge.md from stored results; nobody types them by hand.

    jobs/export.py model=rdsr output=work/phone 'export.artifacts=[onnx_fp32,onnx_int8]'
    cp work/phone/rdsr/bundle.json docs/results/edge/rdsr.json
    jobs/evaluate.py model=rdsr benchmark=sets/Set5 'evaluate.compare=[artifact:FILE]'
    cp work/evaluate/rdsr-Set5/results.json docs/results/edge/rdsr-scores.json
    python -m docs.tools.edge_page

The second pair of commands may be left out: the table then has no columns for benchmark sets.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from pipelines.config.reference import SHIPPED
from pipelines.evaluation.results import EvaluationResults
from pipelines.models.facts import BundleFacts, EdgeArtifact
from pipelines.storage.paths import ROOT
from pipelines.storage.typed import read_typed
from srmodels.edge.target import DELEGATES, make_target

STORED = ROOT / "docs" / "results" / "edge"
PAGE = ROOT / "docs" / "edge.md"
#: The lines that the tables stand between: those of results, and the one of delegates.
BEGIN, END = "<!-- make results: begin -->", "<!-- make results: end -->"
DELEGATES_BEGIN, DELEGATES_END = "<!-- delegates: begin -->", "<!-- delegates: end -->"
_PSNR = "psnr_y_crop4"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(), STORED))
    print(f"Page: {PAGE}")


def page(text: str, stored: Path) -> str:
    """Returns a page's text with the tables of all bundles in the folder `stored`."""
    text = _between(text, BEGIN, END, tables(stored))
    return _between(text, DELEGATES_BEGIN, DELEGATES_END, "\n".join(_delegates(stored)) + "\n")


def _between(text: str, begin: str, end: str, new: str) -> str:
    """Returns a text with something new between two lines, where it has them."""
    if begin not in text:
        return text
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{new}\n{end}{after}"


def tables(stored: Path) -> str:
    """Returns a heading and a table for each bundle."""
    lines: list[str] = []
    for path, facts in _bundles(stored):
        scores = path.with_name(f"{path.stem}-scores.json")
        results = (
            read_typed(EvaluationResults, scores.read_bytes(), str(scores))
            if scores.is_file()
            else None
        )
        lines += [f"### {facts.name}", "", *_table(facts, results), ""]
        lines += [_wrapped(f"Left out: {reason}") + "\n" for reason in facts.left_out.values()]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def _bundles(stored: Path) -> Iterator[tuple[Path, BundleFacts]]:
    for path in sorted(stored.glob("*.json")):
        if not path.stem.endswith("-scores"):
            yield path, read_typed(BundleFacts, path.read_bytes(), str(path))


def _table(facts: BundleFacts, results: EvaluationResults | None) -> Iterator[str]:
    sets = list(results.benchmarks) if results else []
    columns = [
        "MiB", "largest error", "SQNR", "dB lost (95 %)", "LPIPS lost",
        *(f"dB lost on {name}" for name in sets),
        "ms per tile", "of PyTorch's", "MiB in use", "layers spared",
    ]  # fmt: skip
    yield f"| | {' | '.join(columns)} |"
    yield f"|{'---|' * (len(columns) + 1)}"
    for target, artifact in facts.edge.items():
        parity, quality, latency = artifact.parity, artifact.quality, artifact.latency
        peak = latency.peak_bytes if latency else None
        interval = "" if quality.low is None else f" ({quality.low:.3f} … {quality.high:.3f})"
        cells = [
            f"{sum(file.bytes for file in facts.files_of(target)) / 2**20:.1f}",
            f"{parity.max_error:.1e}",
            f"{parity.sqnr_db:.1f} dB",
            f"{quality.loss:.3f}{interval}",
            _lpips(artifact),
            *(_lost(results, name, f"{facts.name} ({target})") for name in sets),
            _shown(latency.median_ms if latency else None, ".1f"),
            _shown(artifact.latency_ratio, ".2f"),
            _shown(None if peak is None else peak / 2**20, ".0f"),
            _spared(artifact),
        ]
        yield f"| `{target}` | {' | '.join(cells)} |"


def _delegates(stored: Path) -> Iterator[str]:
    """Yields the rows on what phones' delegates take of the artifacts."""
    rows = [
        (facts.name, target, told)
        for _, facts in _bundles(stored)
        for target in facts.edge
        if (told := _delegations(facts, target))
    ]
    columns = [title for title in DELEGATES.values() if any(title in told for *_, told in rows)]
    yield f"| | | {' | '.join(columns)} |"
    yield f"|{'---|' * (len(columns) + 2)}"
    for name, target, told in rows:
        yield f"| {name} | `{target}` | {' | '.join(told.get(t, '–') for t in columns)} |"


def _delegations(facts: BundleFacts, target: str) -> dict[str, str]:
    """Returns what each delegate takes, in words: as the export found, or, where it was made before
    exports told, of the artifact that ships."""
    artifact = facts.edge[target]
    titles = set(DELEGATES.values()) & artifact.made.keys()
    if titles:
        return {title: artifact.made[title] for title in titles}
    path = SHIPPED / facts.name / artifact.file
    found = make_target(target).delegations(path) if path.is_file() else {}
    return {DELEGATES[name]: str(each) for name, each in found.items()}


def _lost(results: EvaluationResults | None, name: str, title: str) -> str:
    """Returns PyTorch's mean PSNR-Y on a benchmark set minus the artifact's."""
    assert results is not None
    found = results.benchmarks[name].summary
    for method, values in found.items():
        ours, theirs = found[results.model][_PSNR], values[_PSNR]
        if results.titles[method] == title and ours is not None and theirs is not None:
            return f"{ours - theirs:.3f}"
    return "–"


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _lpips(artifact: EdgeArtifact) -> str:
    losses = [f"{o.loss:.4f}" for o in artifact.other_losses if o.metric == "lpips_alex"]
    return losses[0] if losses else "–"


def _spared(artifact: EdgeArtifact) -> str:
    spared = artifact.made.get("layers in fp32", artifact.made.get("layers in fp16"))
    if spared is None:
        return "–"
    return "0" if spared == "none" else str(len(spared.split(", ")))


if __name__ == "__main__":
    main()
