"""Properties: no time limit for one example, because compiled code is compiled at its first call."""

from hypothesis import settings

settings.register_profile("smartscale", deadline=None, print_blob=True)
settings.load_profile("smartscale")
