"""Load: many clients of the real service at once, for a long time, and what may be said of it afterwards.

`make load` or `python -m tests.load`.
"""
