"""Penjing: data."""
