"""What the benchmarks of training share: arms in processes of their own, watched from outside."""
