"""What can be wrong with weights; without torch, so that everyone can know it."""


class WeightsError(ValueError):
    """Weights that are absent, unreadable or not those of the model asked for; one line, with the way out."""
