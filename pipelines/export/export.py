"""From trained weights to a bundle: edge artifacts that were run and compared, and the evidence."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipelines.config.load import to_yaml
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config, ExportConfig
from pipelines.errors import UserError, listing
from pipelines.export.candidates import Chosen, check_candidates, export_best, find_candidate
from pipelines.export.card import model_card
from pipelines.export.choice import too_slow
from pipelines.export.sbom import SBOM, bill_of_materials
from pipelines.models import bundle, pyfunc
from pipelines.models.facts import BundleFacts
from pipelines.runs.names import run_name
from pipelines.storage.folders import new_folder
from pipelines.storage.ownership import check_replaceable
from pipelines.storage.paths import absolute_location
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import Store, open_store
from pipelines.storage.tensors import save_tensors
from srmodels.edge.target import make_target

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def model_reference(config: Config) -> ModelReference:
    """Returns `model`, else the run of the recipe's last stage."""
    if config.model:
        return ModelReference.parse(config.model)
    return ModelReference(Kind.RUN, run_name(config, list(config.stages)[-1]))


def output_location(config: Config) -> str:
    """Returns where the bundle is written: a directory or an `s3://` prefix."""
    reference = model_reference(config)
    if reference.kind is Kind.SHIPPED:
        folder = absolute_location(config.output or "work/export")
        return f"{folder.rstrip('/')}/{reference.name}"
    return bundle.bundle_location(config.output, config.run)


def plan(config: Config) -> str:
    """Returns what would be exported, in words.

    Raises:
        UserError: files of somebody else are where the bundle goes, a package that an artifact
            needs is not installed, or both a model and candidates are named.
    """
    references = _references(config)
    _check_output(open_store(output_location(config), policy=config.stream.policy))
    _check_targets(config)
    tile, artifacts, budget = config.export.tile, *_in_words(config.export)
    what = f"the best of {listing(references)}" if len(references) > 1 else str(references[0])
    return (
        f"export {what} as {artifacts} (ONNX opset {config.export.opset}, LR tiles of "
        f"{tile}x{tile} px{budget}) into the bundle {output_location(config)}"
    )


def _in_words(settings: ExportConfig) -> tuple[str, str]:
    """Returns the artifacts and the budget for people."""
    budget = settings.latency_budget_ms
    within = "" if budget is None else f", within {budget:g} ms"
    return listing(settings.artifacts) or "weights alone", within


def _references(config: Config) -> list[ModelReference]:
    """Returns the models to choose from; most often there is one."""
    candidates = config.export.candidates
    if not candidates:
        return [model_reference(config)]
    if config.model:
        raise UserError(
            f"model={config.model} and export.candidates are both set: leave one of them out."
        )
    return list(dict.fromkeys(map(ModelReference.parse, candidates)))


def run(config: Config) -> str:
    """Writes the bundle, unless it is there already; returns its location.

    Raises:
        UserError: files of somebody else are where the bundle goes, the model was not evaluated,
            does not exist, or a package that an artifact needs is not installed; no artifact is
            within `export.latency_budget_ms`; with `export.strict`, an artifact misses its
            threshold.
    """
    references, policy = _references(config), config.stream.policy
    store = open_store(output_location(config), policy=policy)
    _check_output(store)
    _check_targets(config)
    candidates = [find_candidate(config, reference) for reference in references]
    check_candidates(candidates)
    [facts, *others] = [candidate.facts for candidate in candidates]
    if not others and _is_exported(store, policy, facts, config.export.latency_budget_ms):
        print(f"Nothing to do: {references[0]} is exported already, see {store.location}.")
        return store.location
    with new_folder(store, bundle.FILE_NAME, lambda: _check_output(store)) as new:
        _write(export_best(config, candidates, new), new)
    print(f"Bundle: {store.location}")
    return store.location


def _write(chosen: Chosen, new: Path) -> None:
    """Writes all of a bundle but its artifacts, which lie there already."""
    model, facts = chosen.candidate.model, chosen.candidate.facts
    _save(model.network.inference_state_dict(), facts.precision, new / bundle.WEIGHTS)
    if model.finetuning_weights:
        _save(model.finetuning_weights, facts.precision, new / bundle.FINETUNING)
    (new / bundle.CONFIG).write_text(to_yaml(model.config))
    for name, data in chosen.candidate.evidence.files.items():
        (new / name).write_bytes(data)
    card = model_card(model.config.description, model.config.degradation.preset, facts, chosen.best)
    (new / bundle.CARD).write_text(card)
    pyfunc.write_description(new)
    (new / SBOM).write_text(bill_of_materials(facts))
    bundle.seal(new, facts)


def _check_output(store: Store) -> None:
    check_replaceable(store, bundle.FILE_NAME, bundle.owned)


def _check_targets(config: Config) -> None:
    for name in config.export.artifacts:
        try:
            make_target(name)
        except ValueError as error:
            raise UserError(str(error)) from None


def _is_exported(
    store: Store, policy: RetryPolicy, facts: BundleFacts, budget_ms: float | None
) -> bool:
    """Returns True if an intact bundle is there that would not change."""
    if store.size(bundle.FILE_NAME) is None:
        return False
    try:
        known = bundle.load_bundle(bundle.local_bundle(store.location, policy)).facts
    except UserError as error:
        print(f"Exporting anew, since {error}")
        return False
    if known.left_out:  # another threshold may let it in
        return False
    if too_slow(budget_ms, known.edge):
        return False
    # The next commit makes no other model of it.
    return replace(known, git_commit=facts.git_commit, edge={}, left_out={}, files={}) == facts


def _save(weights: dict[str, Tensor], precision: str, path: Path) -> None:
    dtype = _DTYPES[precision]
    save_tensors({n: w.to(dtype).contiguous() for n, w in weights.items()}, path)
