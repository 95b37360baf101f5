"""A mask on one weight: the parametrization, what it is held to, and how it goes on, off, and over ranks."""
