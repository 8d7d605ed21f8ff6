"""What the inspection of a data set found."""

from collections import Counter
from dataclasses import dataclass, field

_EXAMPLES = 3


@dataclass
class Findings:
    """What was found, by kind: errors keep training from starting or make it wrong, remarks do not.

    Attributes:
        counts: of each kind.
        examples: the first of each kind.
        errors: the kinds that are errors.
    """

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    errors: set[str] = field(default_factory=set)

    def error(self, kind: str, example: str) -> None:
        self.errors.add(kind)
        self.remark(kind, example)

    def remark(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= _EXAMPLES:
            self.examples.setdefault(kind, []).append(example)

    def says(self, text: str) -> bool:
        """Whether an error's example says just this, or what is left of it without the file's name before it."""
        return any(text.endswith(example) for kind in self.errors for example in self.examples[kind])

    def lines(self) -> list[str]:
        """A line a kind, errors first, with examples."""
        kinds = sorted(self.counts, key=lambda kind: (kind not in self.errors, -self.counts[kind]))
        return [
            f"{'ERROR ' if kind in self.errors else 'remark'} {self.counts[kind]:7d} {kind}: "
            + "; ".join(self.examples[kind])
            for kind in kinds
        ]
