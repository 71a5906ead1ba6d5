"""The chaos suite: real workers, real API replicas and a real Valkey, while a schedule kills, freezes and cuts them.

A checker compares what clients saw with what they were promised. `make chaos` runs all of it.
"""
