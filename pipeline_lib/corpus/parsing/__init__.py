"""From the bytes of one input to the documents in it, one module per format."""
