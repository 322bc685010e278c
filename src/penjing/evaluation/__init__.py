"""Penjing: evaluation."""
