"""Measures how well a model draws, with a classifier that was trained without samples, and in its features."""
