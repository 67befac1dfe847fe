"""What a model costs by arithmetic alone: parameters, operations, bytes. Pure Python: no torch, no files but JSON."""
