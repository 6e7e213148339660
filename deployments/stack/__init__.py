"""The local stack: S3, Prefect server and workers on loopback, everything under one folder."""
