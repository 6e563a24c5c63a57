"""Traces a retraining from new photos to the champion's alias, for collectors of OpenTelemetry.

The variables of OpenTelemetry say where traces go (OTEL_EXPORTER_OTLP_ENDPOINT, …_HEADERS). Without
them nothing is traced, and nothing of it is imported. A job that another process has started goes
on with that one's trace, whose place TRACEPARENT tells (https://www.w3.org/TR/trace-context/).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from pipelines import __version__
from pipelines.errors import UserError, redacted

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

#: The variables that name a collector, for traces alone or for all signals.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
#: The variable that hands a trace on to another process.
PARENT = "TRACEPARENT"
#: Seconds that a try to send takes at most, its repetitions included.
_PATIENCE_S = 5


class Note:
    """A span that is being traced, or nothing, where nothing is traced."""

    def __init__(self, span: "Span | None" = None) -> None:
        self._span = span

    def set(self, **attributes: Any) -> None:
        """Adds what became known since the span began. None is left out."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[Note]:
    """Traces the block as a span.

    The span fails if the block does, and says why in one line. A collector that is away costs the
    end of a process's outermost span some seconds, and no more.

    Args:
        name: what the block does, such as `stage joint`.
        attributes: get the prefix `srmill.`; None is left out.

    Raises:
        UserError: a collector is named, and the package that sends to it is not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        yield Note()
        return
    from opentelemetry import trace

    provider = _provider()
    outermost = not trace.get_current_span().get_span_context().is_valid
    try:
        with provider.get_tracer("srmill").start_as_current_span(
            name,
            context=_handed_on() if outermost else None,
            attributes=_named(attributes),
            # Its traceback might hold a secret.
            record_exception=False,
            set_status_on_exception=False,
        ) as opened:
            try:
                yield Note(opened)
            except BaseException as error:
                told = redacted(" ".join(str(error).split()) or type(error).__name__)
                opened.set_status(trace.StatusCode.ERROR, told[:300])
                raise
    finally:
        if outermost:
            provider.force_flush()


def environment() -> dict[str, str]:
    """Returns the variables by which another process goes on with the span that is open here."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {PARENT: carrier["traceparent"]} if carrier else {}


def _handed_on() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": os.environ.get(PARENT, "")})


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in attributes.items() if value is not None}
    return {
        f"srmill.{name}": redacted(value) if isinstance(value, str) else value
        for name, value in kept.items()
    }


@cache
def _provider() -> "TracerProvider":
    """Returns what makes spans and sends them. It is not OpenTelemetry's global one, which other
    packages of this process may use."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise UserError(
            f"{' or '.join(_ENDPOINTS)} is set, and the package that sends traces is not "
            "installed: run `pip install 'srmill[tracing]'`, or unset the variable."
        ) from None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": "srmill", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_PATIENCE_S)))
    return provider
