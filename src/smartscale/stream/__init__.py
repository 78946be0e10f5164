"""The stream processor, in two phases: ``combine`` (scales with the event rate) reduces events to partials per key
and pane, ``window`` (scales with the number of services) merges partials into the windows' results."""
