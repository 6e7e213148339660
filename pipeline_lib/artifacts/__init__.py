"""Immutable artifacts in S3-compatible storage: objects, manifests, lineage, aliases."""
