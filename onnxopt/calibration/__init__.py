"""What is measured of a model before anything is decided: moments of inputs, gains, ranges."""
