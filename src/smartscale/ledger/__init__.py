"""The books: every accepted event is windowed, late, dead, a duplicate or in flight, and the log alone proves it."""
