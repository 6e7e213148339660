"""RAFT rows: questions, distractors, verified quotes, rendering."""
