"""Otter's own imports warn of each other; here warnings are errors, so they are imported once, quietly."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import otter  # noqa: F401
