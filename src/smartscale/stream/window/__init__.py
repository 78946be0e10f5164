"""Partials to metrics: panes merged into windows, emitted when the watermark says so, exactly once."""
