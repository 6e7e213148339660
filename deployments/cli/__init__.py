"""The `raftline` command."""
