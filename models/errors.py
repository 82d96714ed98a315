"""What can be wrong with what a model is asked to be; without torch, so that everyone can know it."""


class DeviceError(ValueError):
    """The device that was asked for is not there; one line, with the way out."""


class WeightsError(ValueError):
    """Weights that are absent, unreadable or not those of the model asked for; one line, with the way out."""
