"""What a user does with a model: check, compile, run, compare."""
