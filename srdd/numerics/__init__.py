"""Number formats, what quantizing does to tensors as sums and metrics, and how sure that is."""
