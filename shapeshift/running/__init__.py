"""Running any model, compressed or not."""
