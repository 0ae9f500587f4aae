"""What the workers of the tests on OpenTelemetry run; importable by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from opentelemetry import baggage, trace

Where = tuple[int, int, Any, int]
"""Trace, span, baggage, process."""


def where(number: int = 0) -> Where:
    """Return which span is current here."""
    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id, baggage.get_baggage("who"), os.getpid()


class Method:
    """Something with a method."""

    def where(self, number: int) -> Where:
        """Return which span is current here."""
        return where(number)


def work(seconds: float) -> float:
    """Take a while."""
    time.sleep(seconds)
    return seconds


def fail(number: int) -> None:
    """Raise."""
    raise LookupError(f"number {number}")


def die() -> None:
    """End this worker without a word."""
    os.kill(os.getpid(), signal.SIGKILL)
