"""Deployments, the local stack and the raftline command."""
