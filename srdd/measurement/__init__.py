"""Measuring a model: hooks on a forward pass, weights a slice at a time, one Scan in the end."""
