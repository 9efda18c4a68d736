"""Studies with many runs: comparing systems, and scanning the sensitivity of weights."""
