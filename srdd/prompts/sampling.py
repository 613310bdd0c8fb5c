"""How responses are sampled."""

from __future__ import annotations

from dataclasses import dataclass

from srdd.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Attributes:
        responses: to each prompt, at least 1.
        max_new_tokens: of a response, at least 1.
        temperature: 0 or more; 0 takes the likeliest token.
        top_p: sample from the likeliest tokens that make up this probability; above 0, up to 1.
        seed: what samples are drawn from.
    """

    responses: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for what, value, usable in (
            ("--generate", self.responses, self.responses >= 1),
            ("--max-new-tokens", self.max_new_tokens, self.max_new_tokens >= 1),
            ("--temperature", self.temperature, 0 <= self.temperature < float("inf")),
            ("--top-p", self.top_p, 0 < self.top_p <= 1),
        ):
            if not usable:
                least = {"--temperature": "0 or more", "--top-p": "above 0, up to 1"}
                raise UsageError(
                    f"{what} is {value}", f"use {least.get(what, 'a whole number from 1')}"
                )

    @property
    def scored_temperature(self) -> float:
        """The temperature that log-probabilities are of."""
        return self.temperature or 1.0
