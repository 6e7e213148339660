"""Dense and sparse encoding, Qdrant collections, hybrid search."""
