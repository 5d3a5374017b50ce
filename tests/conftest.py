"""Settings every test shares."""

from hypothesis import settings

# A deadline would measure time; the same examples every time make a failure one that anybody sees again.
settings.register_profile("tconv", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tconv")
