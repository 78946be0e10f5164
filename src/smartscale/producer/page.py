"""A run's report as one HTML page."""

from __future__ import annotations

import html

import msgspec

from smartscale.producer.report import Report


def page(report: Report) -> str:
    """Self-contained."""
    return f"<pre>{html.escape(msgspec.json.encode(report).decode())}</pre>"
