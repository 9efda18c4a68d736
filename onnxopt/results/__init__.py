"""Records of what was done and measured: the only input of reports."""
