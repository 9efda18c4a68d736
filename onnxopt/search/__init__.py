"""Finds the one number that meets a contract. Knows numbers, no graphs."""
