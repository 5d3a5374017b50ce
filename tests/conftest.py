"""Settings every test shares."""

import os

from hypothesis import settings

# What tests time is no user's business.
os.environ["TCONV_TUNED"] = ""

# A deadline would measure time; the same examples every time make a failure one that anybody sees again.
settings.register_profile("tconv", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tconv")
