"""Metrics rows to regular matrices: one row a series, one column a step, NaN where nothing is known."""
