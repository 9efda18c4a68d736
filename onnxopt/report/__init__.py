"""What users read: one file an output form. Reads results, computes nothing."""
