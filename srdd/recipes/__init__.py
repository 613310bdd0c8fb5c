"""Recipes: from a scan with sensitivity to a format for each linear.

costs        what every linear costs in every format, by group of prompts
groups       linears that get one format, because one kernel takes them together
choice       the cheapest choice under a limit, exactly
problem      the best recipe for a budget, the curve of all budgets, costs on other prompts
heuristics   what people do without costs
choosing     from arguments to the document
"""

from srdd.recipes.choosing import Question, question, recipe, recipe_for
from srdd.recipes.groups import FUSED

__all__ = ["FUSED", "Question", "question", "recipe", "recipe_for"]
