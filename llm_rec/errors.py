"""Errors a user can cause, and therefore repair. The command line prints their text without a traceback."""


class LlmRecError(Exception):
    """Base of every error that names a wrong value and what to do about it."""


class DataError(LlmRecError, ValueError):
    """A table, a file of rows or an id is not what it must be."""


class ArtifactError(LlmRecError, ValueError):
    """A folder on disk is missing, half written, of another kind, or made from other inputs."""


class ConfigError(LlmRecError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class TrainingError(LlmRecError, RuntimeError):
    """A run cannot start, go on or be resumed as asked."""
