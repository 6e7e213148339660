"""Prefect flows: the order of the stages, their parameters and what the UI shows of them."""
