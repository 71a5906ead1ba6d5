"""Requests as row programs; pure Python, a file a family."""

from engine.plans.rows import CONDITION, NOTHING, Plan, Row, Step, cell_of, token_at

__all__ = ["CONDITION", "NOTHING", "Plan", "Row", "Step", "cell_of", "token_at"]
