"""Which operations of torch and other clients work on a compressed model: checks that run, and the page of them."""
