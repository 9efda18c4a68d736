"""Passes that change how a weight is stored, one file each."""
