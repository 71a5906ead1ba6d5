"""The chaos suite: real worker processes, real front ends and a real server, while things are killed, frozen and cut;
and a checker of what clients were promised. `make chaos` runs all of it."""
