"""How ingest and embedding grow with the corpus."""
