"""SmartScale: real-time event analytics and predictive auto-scaling.

Read the package in the order of an event's path: ``producer``, ``ingest``, ``log``, ``stream.combine``,
``stream.window``, ``ml``, ``control``, ``actuators``. ``app`` is the one place where the parts are joined.
"""

__version__ = "0.1.0"
