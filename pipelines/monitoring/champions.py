"""Reads the champions of a registry as metrics."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from pipelines.models.load import CHAMPION
from pipelines.registry.moves import LOG, Moves
from pipelines.storage.clock import from_utc

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

#: The names of the metrics, and what they are. Each has the label `model`.
METRICS = {
    "srmill_model_versions": "newest version's number of a registered model",
    "srmill_champion_version": "version that is champion",
    "srmill_champion_since_timestamp_seconds": "time at which it became champion, in seconds since "
    "1970",
}
_PAGE = 100


def champions(client: "MlflowClient") -> list[GaugeMetricFamily]:
    """Returns the champion of each registered model.

    Raises:
        UserError: the registry does not answer.
    """
    versions, champion, since = (
        GaugeMetricFamily(name, text, labels=["model"]) for name, text in METRICS.items()
    )
    for model in _models(client):
        name = str(model.name)
        newest = max((int(v.version) for v in model.latest_versions), default=0)
        versions.add_metric([name], newest)
        if (version := model.aliases.get(CHAMPION)) is None:
            continue
        champion.add_metric([name], int(version))
        since.add_metric([name], _since(client, name, str(version)))
    return [versions, champion, since]


def _since(client: "MlflowClient", name: str, version: str) -> float:
    """Returns when a champion was moved there; or was made, where somebody set the alias alone."""
    moves = Moves(client, name).all()
    if moves and moves[-1].to == version:
        return from_utc(moves[-1].when)
    return float(client.get_model_version(name, version).creation_timestamp) / 1000


def _models(client: "MlflowClient") -> Iterator["RegisteredModel"]:
    """Yields the registered models, without those that are the log of another one's moves."""
    token = None
    while True:
        page = client.search_registered_models(max_results=_PAGE, page_token=token)
        yield from (model for model in page if not model.name.endswith(LOG))
        token = page.token
        if not token:
            return
