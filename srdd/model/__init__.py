"""Models: finding a checkpoint, loading it, and telling its layers, norms, linears and experts."""
