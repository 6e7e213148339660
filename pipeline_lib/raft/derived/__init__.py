"""What is made of finished rows without asking a teacher: other tasks, preferences, text."""
