"""Unsway's library: steer a causal language model while it decodes."""
