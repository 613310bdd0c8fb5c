"""Finished scans and configurations, shown to people. Nothing here runs a model."""
