"""Synthesis: the endpoint, completions, gates, contexts, quotes, and whole datasets."""
