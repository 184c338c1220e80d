"""Prompts and numeric targets as embeddings."""
