"""What travels on the topics: frozen, versioned values and their encodings.

Every record carries the header ``schema`` = ``NAME/VERSION``. A stage reads its own version and the one before.
"""
