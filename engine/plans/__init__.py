"""Plans: requests as row programs, in pure Python, one file for each family."""

from engine.plans.rows import (
    CONDITION,
    FIRST_TOKEN,
    NO_TARGET,
    Condition,
    Plan,
    Row,
    Step,
    cell_of,
    condition_at,
    token_at,
)

__all__ = [
    "CONDITION",
    "FIRST_TOKEN",
    "NO_TARGET",
    "Condition",
    "Plan",
    "Row",
    "Step",
    "cell_of",
    "condition_at",
    "token_at",
]
