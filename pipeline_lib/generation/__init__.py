"""Text generation: in-process causal LMs and OpenAI-compatible endpoints."""
