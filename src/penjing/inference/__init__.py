"""Penjing: inference."""
