"""The levels of a teacher's knowledge (Tang et al. 2020), one module each, as functions on tables of soft targets."""

from kdlib.levels import checks, domain, failures, instance, museum, split, universe

__all__ = ["checks", "domain", "failures", "instance", "museum", "split", "universe"]
