"""What knows other libraries: timm, transformers, the command line."""
