"""The commands, one module each: it reads the arguments before anything heavy is imported."""
