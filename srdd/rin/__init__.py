"""Noise injection: sigma by training step, and the noise itself."""
