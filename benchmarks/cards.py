"""What graphics cards can compute at most."""

# Dense peaks in 10^12 operations a second, by what the name of the card holds (vendor data sheets).
_PEAKS = {
    "H200": {"fp32": 67, "bf16": 989},
    "H100": {"fp32": 67, "bf16": 989},
    "A100": {"fp32": 19.5, "bf16": 312},
}


def peaks(card: str) -> dict[str, float] | None:
    """By precision; None for a card that is not in the table."""
    return next((found for name, found in _PEAKS.items() if name in card), None)
