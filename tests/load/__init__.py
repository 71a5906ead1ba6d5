"""The load test: many clients use the real service for a long time; a verdict and a report follow.

`make load` or `python -m tests.load`.
"""
