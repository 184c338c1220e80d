"""Programmatic edits with phrasings and post-conditions, for corpus and evaluation only."""
