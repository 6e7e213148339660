"""One Prefect task per stage: configuration and references in, one library call, counts out."""
