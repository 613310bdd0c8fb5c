"""Running a model with quantized operands, and what that does to its predictions."""
