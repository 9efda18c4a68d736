"""Searches for the slope that meets a contract. Works on numbers, not on graphs."""
