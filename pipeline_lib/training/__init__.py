"""Fine-tuning by DeepSpeed: collator, launcher, checkpoints, export."""
