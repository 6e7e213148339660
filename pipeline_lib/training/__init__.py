"""Fine-tuning by DeepSpeed: batches, launcher, checkpoints, export."""
