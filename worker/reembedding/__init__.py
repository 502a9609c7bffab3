"""Re-embedding: what a column needs before and after its vectors come from another model."""
