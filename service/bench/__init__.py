"""`arpg bench serve`: what a running service delivers over HTTP, beside the engine alone on the same machine."""
