"""The retriever learns: mining, training, measuring and promotion of an embedding model."""
