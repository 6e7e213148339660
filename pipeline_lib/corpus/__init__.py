"""From sources to documents and chunks with exact offsets."""
