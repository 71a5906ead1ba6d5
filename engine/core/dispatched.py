"""Steps that are dispatched to the device, and what becomes of their tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.core.runner import DrawnTokens
from engine.core.sequence import SequenceState
from engine.request import RequestOutput


@dataclass(frozen=True, slots=True)
class DispatchedStep:
    """steps: which step of each sequence's plan."""

    sequences: list[SequenceState]
    steps: list[int]
    drawn: DrawnTokens

    def abort(self, request_id: int) -> None:
        for sequence in self.sequences:
            sequence.aborted |= sequence.id == request_id

    def commit(self) -> list[RequestOutput]:
        """Stores what the step drew. Waits for the device, unless all requests are aborted. A request whose logits are
        not finite counts as aborted from here on, and its output has the error."""
        if all(sequence.aborted for sequence in self.sequences):
            return []
        outputs = []
        for sequence, step, tokens in zip(self.sequences, self.steps, self.drawn.by_sequence(), strict=True):
            if sequence.aborted:
                continue
            if tokens is None:
                sequence.aborted = True
                outputs.append(_broken(output_of(sequence, step, [])))
            elif tokens:
                sequence.commit(step, tokens)
                outputs.append(output_of(sequence, step, tokens))
        return outputs


def _broken(output: RequestOutput) -> RequestOutput:
    error = FloatingPointError(f"request {output.id}: the logits of step {output.step} are not finite")
    return replace(output, error=error)


def output_of(sequence: SequenceState, step: int, tokens: list[int]) -> RequestOutput:
    """step: of the plan, which also counts the steps that draw nothing."""
    plan = sequence.plan
    return RequestOutput(
        id=sequence.id,
        step=step + 1 - (len(plan.steps) - plan.drawing_steps),
        steps=plan.drawing_steps,
        positions=plan.steps[step].targets if tokens else (),
        tokens=tuple(tokens),
        n_done=sequence.drawn,
        n_total=len(sequence.tokens) - len(sequence.request.fixed_tokens),
    )
