"""What a model costs at run time: latency, memory, energy, accuracy."""
