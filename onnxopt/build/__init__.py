"""Executes plans: turns a model and a plan into the bytes of a file."""
