"""How many models of timm and transformers can be compressed, trained and materialized."""
