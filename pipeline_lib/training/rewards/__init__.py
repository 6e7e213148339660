"""What a written answer is worth, told by a program: rewards, and a check that they can tell."""
