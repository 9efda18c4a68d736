"""Passes that change what is stored of a weight: one file each."""
