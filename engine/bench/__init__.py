"""Measurements of the engine, and the static-batch loop that it is compared with: `arpg bench`."""
