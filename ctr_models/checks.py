"""Checks that configs share."""


def check_at_least(name: str, value: int, low: int) -> None:
    """`value` must reach `low`."""
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def check_positive(name: str, value: float | int) -> None:
    """`value` must be above 0."""
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def check_fraction(name: str, value: float | int) -> None:
    """A dropout rate: 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    """At least one size, each at least 1."""
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} must hold at least one size, each at least 1, got {sizes}")


def check_divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    """`divisor` must divide `value`."""
    if value % divisor:
        raise ValueError(f"{name} {value} cannot be shared by {divisor_name} {divisor}; choose a divisor")
