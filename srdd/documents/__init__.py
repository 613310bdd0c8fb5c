"""The documents that srdd writes and reads: scans, noise configurations, recipes, evaluations."""
