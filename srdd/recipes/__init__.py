"""Recipes: from a scan with sensitivity to a format for each linear."""
