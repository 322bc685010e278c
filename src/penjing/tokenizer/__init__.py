"""Penjing: tokenizer."""
