"""Talks to the edge over HTTP, for every part that sends events: stages, the load generator, commands."""
