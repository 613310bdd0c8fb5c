"""What a document says of the rollouts that its figures are of."""

from __future__ import annotations

from srdd.documents.document import Count, Part, Positive


class Rollouts(Part):
    """Rollouts: prompts with responses that a policy sampled. Figures are over response tokens.

    `unreadable` rows of the source were no rollout and `empty` rollouts had no response token;
    neither was used. Of those used: `truncated` ended at a limit of tokens, `multi_turn` have
    context between response tokens, `with_ids` came as token ids, `differing` of these have a text
    that gives other ids, `with_logprobs` came with log-probabilities. `prompt_tokens` are the
    context in all. `temperature` is that of the distribution that the log-probabilities are of,
    null where it is not known.
    """

    unreadable: Count = 0
    empty: Count = 0
    truncated: Count = 0
    multi_turn: Count = 0
    with_ids: Count = 0
    differing: Count = 0
    with_logprobs: Count = 0
    prompt_tokens: Count = 0
    temperature: Positive | None = None

    def added(self, other: Rollouts) -> Rollouts:
        """Those of both together; the temperature is kept where it is that of both."""
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in type(self).model_fields
            if name != "temperature"
        }
        same = self.temperature == other.temperature
        return Rollouts(**counts, temperature=self.temperature if same else None)
