"""The documents that srdd writes and reads: scans, noise configurations, evaluations."""
