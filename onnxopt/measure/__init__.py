"""What models cost when they run: time, memory, accuracy."""
