"""Penjing: models."""
