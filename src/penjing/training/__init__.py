"""Penjing: training."""
