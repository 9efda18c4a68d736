"""What was done and found: all that reports read."""
