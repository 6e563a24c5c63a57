"""Tells people that a model has had no promotion for long, by whichever job notices it."""

import time
from typing import TYPE_CHECKING

from pipelines import tracking
from pipelines.config.durations import seconds
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.notify import Event, choose_channels, deliver_once, make_notification, note
from pipelines.registry.moves import ROLLBACK, Moves
from pipelines.storage.clock import from_utc, utc

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The tag of a registered model that says what was told about it.
TOLD_TAG = "srmill.told"


def tell_if_stale(config: Config, now: float | None = None) -> None:
    """Tells that no promotion has come for `notify.stale_after`: once for each such time.

    Without that key, or without anybody to tell, it asks nobody. A registry that does not answer is
    a line, and no error.

    Args:
        now: the time in seconds since 1970, instead of the present.
    """
    after = config.notify.stale_after
    ways = choose_channels(config.notify) if after is not None else []
    if after is None or not ways:
        return
    name = config.mlflow.model
    assert name is not None
    try:
        client = tracking.connect(config.mlflow)
        since = last_promotion(client, name)
        if since is None:
            return
        tags = client.get_registered_model(name).tags
    except UserError as error:
        note(f"nobody can tell whether {name} is stale: {error}")
        return
    times = int(((now or time.time()) - since) // seconds("notify.stale_after", after))
    if times > 0:
        day = utc(since)
        reason = f"the last one was at {day}, more than {after} ago"
        deliver_once(
            make_notification(config, Event.STALE, reason),
            f"{times} times {after} since {day}",
            ways,
            # In the registry, which all triggers share.
            tags.get(TOLD_TAG),
            lambda text: client.set_registered_model_tag(name, TOLD_TAG, text),
        )


def last_promotion(client: "MlflowClient", name: str) -> float | None:
    """Returns when a version was promoted last, by the gate or by hand, in seconds since 1970.

    Without any promotion it is the time at which the model was made; None if there is no model.

    Raises:
        UserError: the registry does not answer.
    """
    promotions = [move for move in Moves(client, name).all() if move.kind != ROLLBACK]
    if promotions:
        return from_utc(promotions[-1].when)
    model = tracking.lookup(client.get_registered_model, name)
    return model.creation_timestamp / 1000 if model else None
