"""What a statistician asks to see of the evaluation room, one module a study."""
