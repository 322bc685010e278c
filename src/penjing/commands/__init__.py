"""Penjing: commands."""
