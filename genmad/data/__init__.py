"""The corpus: graphs, deduplication by canonical hash, splits by model family."""
