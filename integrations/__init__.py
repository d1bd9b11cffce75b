"""Other frameworks: timm, transformers and Lightning."""
