"""What MONAI Label runs: infer and train tasks, scoring, the choice of the next case."""
