"""Settings of all property tests: an example may take as long as it takes, since machines differ and compile."""

from hypothesis import settings

settings.register_profile("tmask", deadline=None)
settings.load_profile("tmask")
