"""Calibration text: reading it, and cutting it into batches of token ids."""
