"""Settings of all tests.

An example of a property may take as long as it takes, since machines differ and compile. Tables are as wide as in a
pipe: pytest-xdist tells its workers the width of some terminal.
"""

import os

from hypothesis import settings

os.environ.pop("COLUMNS", None)

settings.register_profile("tmask", deadline=None)
settings.load_profile("tmask")
