"""The engine: continuous batching of steered and unsteered requests. Knows only plans, ids and tensors."""
