"""Reads every source of metrics now and then, and serves what it has read."""

import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.monitoring.champions import champions
from pipelines.monitoring.retrainings import retrainings
from pipelines.storage.clock import Clock, utc

#: The names of the exporter's own metrics, and what they are. Each has the label `source`.
METRICS = {
    "srmill_source_up": "1 if the source answered when it was asked last, else 0",
    "srmill_source_read_timestamp_seconds": "time at which the source answered last, in seconds "
    "since 1970",
}
#: Seconds that a source may fail before the next one is asked.
_PATIENCE_S = 10.0
#: The longest pause after a source did not answer, in seconds.
_SOON_S = 10.0
Families = Sequence[GaugeMetricFamily]


def sources(config: Config) -> dict[str, Callable[[], Families]]:
    """Returns the sources of a configuration by name: the registry, and the retrainings.

    None of them waits long for a server that is away: the others are asked, too.
    """
    config = copy.deepcopy(config)
    config.mlflow.retry_seconds = min(config.mlflow.retry_seconds, _PATIENCE_S)
    config.stream.retry_seconds = min(config.stream.retry_seconds, _PATIENCE_S)
    return {
        "registry": lambda: champions(tracking.connect(config.mlflow, create=False)),
        "retrainings": lambda: retrainings(config, time.time()),
    }


@dataclass(eq=False)
class Exporter:
    """Keeps the values that each source gave when it answered last. A source that fails keeps its
    values, since alarms need them, and is marked as down.

    Args:
        sources: read the metrics of each source, by its name; they raise UserError.
    """

    sources: Mapping[str, Callable[[], Families]]
    #: Why a source failed when it was asked last, by its name.
    errors: dict[str, str] = field(default_factory=dict)
    _values: dict[str, Families] = field(default_factory=dict)
    _read: dict[str, float] = field(default_factory=dict)

    def refresh(self) -> None:
        """Asks every source. A source that begins or ceases to fail is a line on stderr."""
        for name, read in self.sources.items():
            try:
                self._values[name] = read()
            except UserError as error:
                if name not in self.errors:
                    print(f"{utc(time.time())} {name}: {error}", file=sys.stderr)
                self.errors[name] = str(error)
            else:
                self._read[name] = time.time()
                if self.errors.pop(name, None):
                    print(f"{utc(time.time())} {name}: answers again", file=sys.stderr)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields what Prometheus reads; it waits for nobody."""
        up, read = (GaugeMetricFamily(*about, labels=["source"]) for about in METRICS.items())
        for name in self.sources:
            up.add_metric([name], float(name in self._values and name not in self.errors))
            if name in self._read:
                read.add_metric([name], self._read[name])
        yield up
        yield read
        for families in list(self._values.values()):
            yield from families

    def text(self) -> str:
        """Returns what Prometheus reads, as text."""
        return generate_latest(self._registry()).decode()

    def serve(
        self,
        host: str,
        port: int,
        every_s: float,
        ready: Callable[[int], None],
        clock: Clock = Clock(),
    ) -> None:
        """Serves /metrics over plain HTTP until an exception ends the main thread.

        Args:
            port: 0 for any that is free.
            every_s: the pause before the sources are asked again, in seconds.
            ready: is called with the port, once requests are answered.

        Raises:
            UserError: the address is taken, or none of this machine.
        """
        try:
            server, thread = start_http_server(port, host, self._registry())
        except (OSError, OverflowError) as error:
            raise UserError(
                f"cannot listen at {host} port {port} ({error}): give another --host or --port."
            ) from None
        try:
            ready(server.server_port)
            while True:
                self.refresh()
                clock.sleep(min(every_s, _SOON_S) if self.errors else every_s)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry
