"""Penjing: data/world."""
