"""Rewrites of a model into one that computes the same, or nearly the same."""
