"""The library behind Raftline: all logic, no orchestration."""
