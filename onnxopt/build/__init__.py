"""Carries a plan out: from a model and a plan to the bytes of a file."""
