"""Low-rank factorisation, one file for each method."""
