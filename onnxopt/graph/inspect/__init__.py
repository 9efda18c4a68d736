"""Looks at a graph, or at what the runtime makes of it, and changes nothing."""
