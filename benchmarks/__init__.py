"""The speed figures and the tables of the papers, each a runnable script."""
