"""Plans: requests as row programs, in pure Python, one file for each family."""

from engine.plans.rows import CONDITION, NO_TARGET, Plan, Row, Step, cell_of, token_at

__all__ = ["CONDITION", "NO_TARGET", "Plan", "Row", "Step", "cell_of", "token_at"]
