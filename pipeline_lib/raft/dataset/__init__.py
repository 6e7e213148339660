"""The dataset as a whole: its splits, what it keeps apart, what it builds on, and who used it."""
