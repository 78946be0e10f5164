"""What tests of SmartScale use, and tests of what others add to it.

The stream processor in one thread, with no broker and under virtual time (``docs/testing.md``):

>>> from smartscale.config import Settings
>>> from smartscale.testing import Pipeline, Sent
>>> run = Pipeline(Settings())
>>> for second in range(10):
...     run.send(Sent("shop", run.start_us + second * 1_000_000, latency_us=20_000))
>>> run.run_to_end()
>>> [row.count for row in run.finals(window="10s", name="/")][0]
10
"""

from smartscale.testing.pipeline import START_US, Pipeline, Sent

__all__ = ["START_US", "Pipeline", "Sent"]
