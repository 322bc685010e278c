"""From a base model to an assistant that people prefer: instruction tuning, reward models, preferences, rewards.

Each method is one file: its objective, `(model, batch) -> Loss`, and what makes its batches. The Trainer does the rest.
"""
