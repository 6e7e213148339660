"""Metrics, arms, intervals, the promotion gate and the report."""
