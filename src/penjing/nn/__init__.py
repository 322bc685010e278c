"""Penjing: nn."""
