"""Changes to a graph: each takes a model and gives one that computes the same, or nearly."""
