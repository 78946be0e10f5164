"""``smartscale ingest tail``: access logs become events, each line once, through rotation and restarts.

``follower`` reads a file's lines, whatever happens to the file; ``state`` remembers how far they have been answered;
``service`` turns lines into events, sends them and waits for the answer.
"""
