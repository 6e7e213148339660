"""Review: people look at rows and decide; their verdicts outlive the dataset they looked at."""
