"""Quantile forecasts of all series together: methods, weighting, calibration."""
