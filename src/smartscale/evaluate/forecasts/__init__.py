"""Rolling-origin evaluation of the forecasts: the future is predicted, then learned, in order, and never seen before.

::

    history_csv ──▶ rolling (ours) ┐
                    baselines      ├─▶ scores ──▶ results ──▶ table, JSON, report, CSV of the forecasts
                                   ┘
"""
