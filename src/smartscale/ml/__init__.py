"""Forecasts with honest uncertainty and anomalies worth waking for, for every service.

``metrics`` rows become regular matrices (``series``), all series together are forecast (``forecast``) and judged
(``anomaly``), one partition at a time (``partition``). Only ``service`` does I/O.
"""
