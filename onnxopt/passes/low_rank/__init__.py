"""Passes that make a chain of thinner layers of one: one file each."""
