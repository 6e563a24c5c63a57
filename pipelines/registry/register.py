"""A bundle becomes a version of a registered model, and the champion if the gate lets it."""

import time
from typing import TYPE_CHECKING

from pipelines import tracking
from pipelines.config.schema import Config, RegisterConfig
from pipelines.models import bundle as bundles
from pipelines.models.bundle import Bundle, load_bundle, local_bundle
from pipelines.models.load import CHAMPION, champion, fetch
from pipelines.registry.gate import Decision, decide
from pipelines.storage.paths import absolute_location

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREVIOUS = "previous"
_NEVER = "register.promote=never"
BUNDLE_TAG, GATE_TAG = "srmill.bundle", "srmill.gate"


def bundle_location(config: Config) -> str:
    """Returns the directory or `s3://` prefix that `bundle` names, else where jobs/export.py writes
    by default."""
    if config.bundle:
        return absolute_location(config.bundle)
    return bundles.bundle_location(None, config.run)


def plan(config: Config) -> str:
    """Returns what would be registered, and where, in words."""
    return (
        f"register {bundle_location(config)} as a version of '{config.mlflow.model}' at "
        f"{tracking.tracking_uri(config.mlflow)}; promotion: {config.register.promote}"
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
    if _must_decide(client, config.register, name, version):
        decision = _decide(config, bundle)
        if decision.promote:
            promote(client, name, version)
            print(f"Promoted: {name}@{CHAMPION} is version {version} ({decision.reason}).")
        else:
            print(f"Not promoted: {decision.reason}.")
        # Last: a register that was interrupted before it is asked again.
        client.set_model_version_tag(name, version, GATE_TAG, decision.reason)
    print(f"Champion: {champion(config.mlflow)} = version {champion_version(client, name)}")
    return version


def find_version(client: "MlflowClient", name: str, bundle: Bundle) -> str | None:
    """Returns the version that holds exactly this bundle, if there is one."""
    found = client.search_model_versions(
        f"name = '{name}' and tags.`{BUNDLE_TAG}` = '{bundle.digest}'"
    )
    return str(found[0].version) if found else None


def champion_version(client: "MlflowClient", name: str) -> str | None:
    """Returns the version of a registered model that is champion, if there is one.

    Raises:
        UserError: the registry fails; that is not the same as having no champion.
    """
    model = tracking.lookup(client.get_registered_model, name)
    version = model.aliases.get(CHAMPION) if model else None
    return None if version is None else str(version)


def promote(client: "MlflowClient", name: str, version: str) -> None:
    """Moves `champion` to `version`; the champion before stays reachable as `previous`."""
    aliases = client.get_registered_model(name).aliases
    old = aliases.get(CHAMPION)
    if old is not None and str(old) != version:
        client.set_registered_model_alias(name, PREVIOUS, old)
    client.set_registered_model_alias(name, CHAMPION, version)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    client.set_model_version_tag(name, version, "srmill.promoted_at", moment)


def _must_decide(client: "MlflowClient", settings: RegisterConfig, name: str, version: str) -> bool:
    """Returns False where an earlier decision on this version stands.

    The gate decides once per version; `always` overrules it, and `never` does not last.
    """
    decided = client.get_model_version(name, version).tags.get(GATE_TAG)
    if decided is None:
        return True
    if settings.promote == "always":
        return champion_version(client, name) != version
    return settings.promote == "gate" and decided == _NEVER


def _decide(config: Config, bundle: Bundle) -> Decision:
    if config.register.promote != "gate":
        always = config.register.promote == "always"
        return Decision(always, "register.promote=always" if always else _NEVER)
    assert config.mlflow.model is not None
    if champion_version(tracking.connect(config.mlflow), config.mlflow.model) is None:
        return decide(bundle, None)
    return decide(bundle, load_bundle(fetch(champion(config.mlflow), config.mlflow)))


def _create_version(client: "MlflowClient", config: Config, name: str, bundle: Bundle) -> str:
    facts = bundle.facts
    scores = {tracking.allowed(name): mean for name, mean in facts.metrics.means().items()}
    tags = {BUNDLE_TAG: bundle.digest, "srmill.manifest": facts.manifest}
    run_id = tracking.new_run(client, config, f"{config.run.name}-bundle", tags)
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
            description=f"{facts.recipe}, commit {facts.git_commit}",
        )
    return str(created.version)
