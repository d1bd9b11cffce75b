"""Networks that match sentences with images, and phrases with regions: their training and their measures."""
