"""Events to partials: one row per key and pane, exactly once, with the watermarks that window goes by."""
