"""What is measured of a model before any decision: moments of layer inputs, gains, ranges, activation noise."""
