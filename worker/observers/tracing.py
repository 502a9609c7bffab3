"""Sends traces to a collector of OpenTelemetry, where its own variables ask for that.

The packages are those of the extra `otel`, and are imported only then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import worker
from worker.observers.composite import CompositeObserver

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
END_WITHIN = 3.0  # seconds; what the collector has not taken by then is lost
SERVICE = "embedding-worker"

Emit = Callable[..., None]
"""`Progress.event`. Other threads call it as well."""
Traced = Callable[..., Any]
"""Wraps an ASGI application that answers at a route."""


@contextmanager
def traced(observer: CompositeObserver, emit: Emit) -> Iterator[None]:
    """Add the traces of a run to its observers, if they are wanted."""
    with opened_tracer(emit) as tracer:
        if not tracer:
            yield
            return
        from worker.observers.traces import Traces

        traces = Traces(tracer)
        observer.add(traces)
        try:
            yield
        finally:
            traces.close()


@contextmanager
def request_spans(emit: Emit) -> Iterator[Traced | None]:
    """Yield what makes a span for each request to an application; None: no traces are wanted."""
    with opened_tracer(emit) as tracer:
        if not tracer:
            yield None
            return
        from worker.observers.request_spans import RequestSpans

        yield partial(RequestSpans, tracer)


@contextmanager
def opened_tracer(emit: Emit) -> Iterator[Tracer | None]:
    """Yield what makes spans. None: the environment asks for no traces, or they cannot be sent.

    It never waits for the collector: spans that find no room in the queue are lost. `emit` gets why
    none are sent.
    """
    provider = _open(emit) if _are_wanted(os.environ) else None
    try:
        yield provider.get_tracer("worker", worker.__version__) if provider else None
    finally:
        if provider:
            ending = Thread(target=provider.shutdown, name="end-of-traces", daemon=True)
            ending.start()
            ending.join(END_WITHIN)


def _are_wanted(environment: Mapping[str, str]) -> bool:
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_named = exporter or any(environment.get(name, "").strip() for name in ENDPOINTS)
    return bool(is_named) and exporter != "none" and not is_off


def _open(emit: Emit) -> TracerProvider | None:
    """Return what makes and sends spans; None if that cannot be."""
    if refusal := _unsupported(os.environ):
        emit("traces_off", cause=refusal[0], hint=refusal[1])
        return None
    try:
        from worker.observers.otlp import open_provider

        return open_provider(SERVICE, worker.__version__, emit)
    except ImportError:
        cause = "the packages of OpenTelemetry are not installed"
        emit("traces_off", cause=cause, hint="pip install 'embedding-worker[otel]'")
    except Exception as problem:  # of a value that is not valid; its message may repeat a secret
        cause = f"OpenTelemetry cannot be set up: {type(problem).__name__}"
        emit("traces_off", cause=cause, hint="Correct the variables OTEL_….")
    return None


def _unsupported(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return why the wanted exporter is not one that we have, and what to do."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter != "otlp":
        return f"OTEL_TRACES_EXPORTER is {exporter}", "Set it to otlp or none."
    given = next((environment[name] for name in PROTOCOLS if environment.get(name)), PROTOCOL)
    if given.strip() != PROTOCOL:
        hint = f"Set OTEL_EXPORTER_OTLP_PROTOCOL={PROTOCOL}, and the endpoint to the port for HTTP."
        return f"the protocol {given} is not supported", hint
    return None
