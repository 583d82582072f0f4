"""What the commands do, once their arguments have been read."""
