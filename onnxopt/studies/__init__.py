"""Many runs of the optimizer beside each other: systems compared, weights scanned."""
