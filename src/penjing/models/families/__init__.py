"""Penjing: models/families."""
