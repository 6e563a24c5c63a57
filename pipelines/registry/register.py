"""A bundle becomes a version of a registered model, and the champion if the gate lets it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipelines import tracking
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config, RegisterConfig
from pipelines.errors import NotPromotedError, listing
from pipelines.evaluation.frozen import open_frozen
from pipelines.models import bundle as bundles
from pipelines.models.bundle import CARD, Bundle, load_bundle, local_bundle
from pipelines.models.facts import BundleFacts
from pipelines.models.load import CHAMPION, champion, fetch
from pipelines.registry import decision_page
from pipelines.registry.evidence import Contender
from pipelines.registry.gate import Decision, decide
from pipelines.registry.measured import Measurer
from pipelines.registry.moves import LONGEST_DESCRIPTION, PROMOTE, Moves
from pipelines.registry.timing import time_beside
from pipelines.storage.paths import absolute_location
from pipelines.tracing import span

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NEVER = "register.promote=never"
_ALREADY = "it was champion already"
BUNDLE_TAG, GATE_TAG = "srmill.bundle", "srmill.gate"
#: Whether the gate refused a version: `true` or `false`.
_REFUSED_TAG = "srmill.refused"
#: The version that was champion when the gate decided; empty if there was none.
_AGAINST_TAG = "srmill.against"


@dataclass(frozen=True)
class Outcome:
    """The decision of the gate about a version, whatever has moved the champion since.

    Attributes:
        promoted: whether it became champion.
        refused: whether the gate refused it; neither of the two with register.promote=never.
        reason: why, in the gate's words.
        against: the version that was champion then; None if there was none.
    """

    promoted: bool
    refused: bool
    reason: str
    against: str | None

    @staticmethod
    def of(tags: Mapping[str, str]) -> "Outcome":
        """Returns what the gate has left among the tags of a version."""
        refused, reason = tags.get(_REFUSED_TAG) == "true", tags.get(GATE_TAG, "")
        promoted = not refused and reason not in ("", _NEVER)
        return Outcome(promoted, refused, reason, tags.get(_AGAINST_TAG) or None)


def bundle_location(config: Config) -> str:
    """Returns the directory or `s3://` prefix that `bundle` names, else where jobs/export.py writes
    by default."""
    if config.bundle:
        return absolute_location(config.bundle)
    return bundles.bundle_location(None, config.run)


def plan(config: Config) -> str:
    """Returns what would be registered, and where, in words.

    Raises:
        UserError: a set of the gate does not exist, or is not the one that the recipe pins.
    """
    rule = config.register.promote
    sets = [found.name for found in open_frozen(config)] if rule == "gate" else []
    return (
        f"register {bundle_location(config)} as a version of '{config.mlflow.model}' at "
        f"{tracking.tracking_uri(config.mlflow)}; promotion: {rule}"
        f"{f' by {listing(sets)}' if sets else ''}"
    )


def run(config: Config) -> str:
    """Registers the bundle, unless it is registered already; returns its version.

    Raises:
        UserError: there is no bundle, it is damaged, or the MLflow server does not answer.
    """
    location = bundle_location(config)
    bundle = load_bundle(local_bundle(location, config.stream.policy))
    client = tracking.connect(config.mlflow)
    name = config.mlflow.model
    assert name is not None
    version = find_version(client, name, bundle)
    if version is not None:
        print(f"Nothing to do: {location} is {name} version {version} already.")
    else:
        version = _create_version(client, config, name, bundle)
        print(f"Registered {name} version {version} at {tracking.tracking_uri(config.mlflow)}.")
    moves = Moves(client, name)
    if _must_decide(moves, config.register, version):
        decision = _decide_and_move(config, moves, version, bundle)
        _show(client, name, version, decision)
        refused = not decision.promote and decision.reason != _NEVER
        client.set_model_version_tag(name, version, _REFUSED_TAG, str(refused).lower())
        client.set_model_version_tag(name, version, _AGAINST_TAG, decision.against or "")
        # Last: a register that was interrupted before it is asked again.
        client.set_model_version_tag(name, version, GATE_TAG, decision.reason)
    _tell(config, moves.champion())
    return version


def check_promoted(config: Config, version: str) -> None:
    """Checks that the gate did not refuse a version, in this job or in an earlier one.

    Raises:
        NotPromotedError: it did, and the version has not become champion since.
        UserError: the MLflow server does not answer.
    """
    client, name = tracking.connect(config.mlflow), config.mlflow.model
    assert name is not None
    found = outcome(config, version)
    if found.refused and Moves(client, name).alias(CHAMPION) != version:
        raise NotPromotedError(f"{name} version {version}: {found.reason}.")


def outcome(config: Config, version: str) -> Outcome:
    """Returns what the gate decided about a version, in this job or in an earlier one.

    Raises:
        UserError: the MLflow server does not answer.
    """
    assert config.mlflow.model is not None
    client = tracking.connect(config.mlflow)
    return Outcome.of(client.get_model_version(config.mlflow.model, version).tags)


def tell_champion(config: Config) -> None:
    """Prints which version is champion; writes nothing."""
    assert config.mlflow.model is not None
    _tell(config, Moves(tracking.connect(config.mlflow), config.mlflow.model).alias(CHAMPION))


def _tell(config: Config, version: str | None) -> None:
    told = "none yet" if version is None else f"version {version}"
    print(f"Champion: {champion(config.mlflow)} = {told}")


def registered(config: Config) -> str | None:
    """Returns the version that holds the bundle of this configuration; None if there is none.

    Raises:
        UserError: the bundle is missing or damaged, or the MLflow server does not answer.
    """
    bundle = load_bundle(local_bundle(bundle_location(config), config.stream.policy))
    assert config.mlflow.model is not None
    return find_version(tracking.connect(config.mlflow), config.mlflow.model, bundle)


def find_version(client: "MlflowClient", name: str, bundle: Bundle) -> str | None:
    """Returns the version that holds exactly this bundle, if there is one."""
    found = client.search_model_versions(
        f"name = '{name}' and tags.`{BUNDLE_TAG}` = '{bundle.digest}'"
    )
    return str(found[0].version) if found else None


def _must_decide(moves: Moves, settings: RegisterConfig, version: str) -> bool:
    """Returns False where an earlier decision on this version stands.

    The gate decides once per version; `always` overrules it, and `never` does not last.
    """
    decided = moves.client.get_model_version(moves.name, version).tags.get(GATE_TAG)
    if decided is None:
        return True
    if settings.promote == "always":
        return moves.champion() != version
    return settings.promote == "gate" and decided == _NEVER


def _decide_and_move(config: Config, moves: Moves, version: str, bundle: Bundle) -> Decision:
    """Decides against the champion until no other job moves it meanwhile; returns the decision."""
    while True:
        current, seen = moves.settle()
        if current == version:
            # This job was interrupted after the move.
            last = seen[-1] if seen else None
            return Decision(True, last.reason, last.before) if last else Decision(True, _ALREADY)
        with span("gate", version=version, against=current) as note:
            decision = replace(_decide(config, moves, version, bundle, current), against=current)
            note.set(promoted=decision.promote, reason=decision.reason)
        if not decision.promote:
            print(f"Not promoted: {decision.reason}.")
            return decision
        with span(f"move @{CHAMPION}", version=version, before=current) as note:
            moved = moves.add(PROMOTE, version, decision.reason, seen)
            note.set(moved=moved)
        if moved:
            print(f"Promoted: {moves.name}@{CHAMPION} is version {version} ({decision.reason}).")
            return decision
        print("Another job has moved the champion meanwhile, so the gate decides again.")


def _show(client: "MlflowClient", name: str, version: str, decision: Decision) -> None:
    """Keeps the page of a decision among the artifacts of the version's run, if it has one."""
    run_id = client.get_model_version(name, version).run_id
    if not run_id or decision.rival is None:
        return
    client.log_text(run_id, decision_page.render(name, version, decision), decision_page.PAGE)
    print(f"The decision as a page: {decision_page.PAGE} of MLflow run {run_id}.")


def _decide(
    config: Config, moves: Moves, version: str, bundle: Bundle, current: str | None
) -> Decision:
    if config.register.promote != "gate":
        always = config.register.promote == "always"
        return Decision(always, "register.promote=always" if always else _NEVER)
    measurer = Measurer(config, moves.client, moves.name, open_frozen(config))
    ours = measurer.evidence(version, bundle)
    candidate = Contender(bundle.facts, ours)
    if current is None:
        return decide(candidate, None, config.gate)
    reference = ModelReference(Kind.REGISTRY, moves.name, version=current)
    champion = load_bundle(fetch(reference, config.mlflow))
    if champion.facts.scale != bundle.facts.scale:
        return Decision(
            False,
            f"it enlarges by {bundle.facts.scale}, and the champion by {champion.facts.scale}: set "
            "mlflow.model to another name for it",
        )
    theirs = measurer.evidence(current, champion, ours.metrics)
    timed = time_beside(bundle, champion, config.export.latency_runs)
    return decide(candidate, Contender(champion.facts, theirs), config.gate, timed)


def bundle_run(name: str) -> str:
    """Returns the name of the MLflow run that holds the bundle of a `run.name`."""
    return f"{name}-bundle"


def _create_version(client: "MlflowClient", config: Config, name: str, bundle: Bundle) -> str:
    facts = bundle.facts
    scores = {tracking.allowed(name): mean for name, mean in facts.metrics.means().items()}
    tags = {BUNDLE_TAG: bundle.digest} | _lineage(facts)
    run_id = tracking.new_run(client, config, bundle_run(str(config.run.name)), tags)
    with tracking.active_run(client, run_id):
        client.log_artifacts(run_id, str(bundle.path), "bundle")
        for metric, value in scores.items():
            client.log_metric(run_id, metric, value)
        if tracking.lookup(client.get_registered_model, name) is None:
            tracking.create_unless_there(
                client.create_registered_model, name, description=config.description
            )
        created = client.create_model_version(
            name,
            source=f"runs:/{run_id}/bundle",
            run_id=run_id,
            tags=tags | {metric: f"{value:.4f}" for metric, value in scores.items()},
            description=_description(bundle),
        )
    return str(created.version)


def _description(bundle: Bundle) -> str:
    """Returns the model card, if there is one, as far as MLflow takes it."""
    card = bundle.path / CARD
    if card.is_file():
        return card.read_text(encoding="utf-8")[:LONGEST_DESCRIPTION]
    return f"{bundle.facts.recipe}, commit {bundle.facts.git_commit}"


def _lineage(facts: BundleFacts) -> dict[str, str]:
    """Returns where a bundle comes from, and the digests of its artifacts, as tags."""
    lineage = {
        "recipe": facts.recipe,
        "parent": facts.parent_version or "none",
        "manifest": facts.manifest,
        "commit": facts.git_commit or "unknown",
        "config": facts.config_digest,
        "weights": facts.weights_sha256,
    }
    for target in facts.edge:
        lineage[f"artifact.{target}"] = facts.digest_of(target)
    return {f"srmill.{name}": value for name, value in lineage.items()}
