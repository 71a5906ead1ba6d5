"""How well a model draws: a classifier that never saw a sample, and what is measured in its features."""
