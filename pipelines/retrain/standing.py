"""Says where a retraining stands before it starts: whose turn it is, earlier starts, the budget."""

from dataclasses import replace

from pipelines.config.schema import Config
from pipelines.retrain.history import Given, Retraining, Retrainings, given, hours, model_store
from pipelines.retrain.journal import spent_on
from pipelines.retrain.lease import last_holder


def standing(config: Config) -> list[str]:
    """Returns lines on the lease, on an earlier start with the same inputs, and on the budget.

    Nothing is written, and the registry is not asked.

    Raises:
        UserError: the records cannot be read, or the source cannot be listed.
    """
    records = Retrainings(model_store(config)).all()
    return [
        f"lease: {_lease(config)}",
        f"record: {_record(records, given(config, None))}",
        f"budget: {_budget(config, [each for each in records if each.run == config.run.name])}",
    ]


def _lease(config: Config) -> str:
    holder = last_holder(config)
    if holder is None or holder.released is not None:
        return f"nobody retrains '{config.mlflow.model}' now"
    return (
        f"'{config.mlflow.model}' is being retrained by {holder}, unless that job was killed; a "
        "second one ends with code 5"
    )


def _record(records: list[Retraining], now: Given) -> str:
    """Returns what became of the newest start with these inputs, whoever was champion then."""
    for record in records:
        if replace(record.given, champion=None) == now:
            times = f"{record.starts} starts" if record.starts > 1 else "1 start"
            champion = record.given.champion or "none"
            why = f": {record.reason}" if record.reason else ""
            return (
                f"the same photos, configuration and code were tried at {record.started} (champion "
                f"{champion}, {times}): {record.verdict}{why}"
            )
    return "nothing was tried with these photos, this configuration and this code"


def _budget(config: Config, same: list[Retraining]) -> str:
    used, limits = spent_on(same), config.retrain
    told = [
        f"{hours(taken)} of {limit:g} {what}"
        for what, taken, limit in (
            ("hours", used.wall_hours, limits.max_hours),
            ("GPU hours", used.gpu_hours, limits.max_gpu_hours),
        )
        if limit is not None
    ]
    taken = f"{hours(used.wall_hours)} hours, {hours(used.gpu_hours)} GPU hours"
    return f"{' and '.join(told)} are spent" if told else f"no limit; {taken} are spent"
