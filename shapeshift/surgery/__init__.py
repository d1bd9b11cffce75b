"""How a model comes to read generated weights, and stops."""
