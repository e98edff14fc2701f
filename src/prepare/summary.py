"""What a prepared data set holds, in a few lines: rows, tokens, and what max_length will cut."""

from collections import Counter

import numpy as np

from .dataset_file import IGNORED

BAR_WIDTH = 30


class LengthCounts:
    """Exact counts of row lengths, in memory of the number of different lengths."""

    def __init__(self, max_length: int | None):
        self.max_length = max_length
        self.counts = Counter()
        self.labelled = False
        self.learnt = self.learnt_after_cut = self.without_target = self.emptied_by_cut = 0

    def add(self, rows: list[np.ndarray], labels: list[np.ndarray] | None = None) -> None:
        self.counts.update(map(len, rows))
        for row_labels in labels or ():
            self.labelled = True
            mask = row_labels != IGNORED
            learnt = int(np.count_nonzero(mask))
            self.learnt += learnt
            self.learnt_after_cut += int(np.count_nonzero(mask[1:self.max_length]))  # nothing predicts a row's first token
            self.without_target += learnt == 0
            self.emptied_by_cut += learnt > 0 and not mask[:self.max_length].any()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.array(sorted(self.counts), dtype=np.int64)
        return lengths, np.array([self.counts[length] for length in lengths], dtype=np.int64)

    def lines(self) -> list[str]:
        lengths, counts = self.arrays()
        max_length, tokens = self.max_length, int((lengths * counts).sum())
        lines = length_lines(lengths, counts, max_length)
        if self.labelled:
            lines.append(f"learnt: {self.learnt:,} of {tokens:,} tokens ({self.learnt / tokens:.1%})")
            if self.without_target:
                lines.append(f"{self.without_target:,} rows have no learnt token")
            if self.emptied_by_cut:
                lines.append(f"{self.emptied_by_cut:,} rows lose all their learnt tokens to max_length = {max_length:,} and will be left out")
        kept = lengths if max_length is None else np.minimum(lengths, max_length)
        targets = self.learnt_after_cut if self.labelled else int(((kept - 1) * counts).sum())
        lines.append(f"target tokens in an epoch{'' if max_length is None else ' after the cut'}: {targets:,}")
        return lines


def length_lines(lengths: np.ndarray, counts: np.ndarray, max_length: int | None) -> list[str]:
    """counts[i] rows have lengths[i] tokens; lengths rise."""
    rows, tokens = int(counts.sum()), int((lengths * counts).sum())

    def percentile(share: float) -> int:
        """Smallest length that at least `share` of the rows do not exceed."""
        return int(lengths[np.searchsorted(np.cumsum(counts), share * rows)])

    lines = [f"length: median {percentile(0.5):,}, mean {tokens / rows:,.0f}, 95 % at most {percentile(0.95):,}, longest {lengths[-1]:,}"]
    if max_length is not None:
        cut = counts[lengths > max_length].sum()
        lost = tokens - int((np.minimum(lengths, max_length) * counts).sum())
        lines.append(f"max_length = {max_length:,} cuts {cut:,} rows ({cut / rows:.1%}) and leaves out {lost:,} tokens ({lost / tokens:.1%})")
    return lines + histogram(lengths, counts, max_length)


def histogram(lengths: np.ndarray, counts: np.ndarray, max_length: int | None) -> list[str]:
    """A line for each range of lengths; lengths rise."""
    edges = [0]
    while edges[-1] < lengths[-1]:
        edges.append(max(16, edges[-1] * 2))
    if max_length is not None and max_length < lengths[-1]:
        edges = sorted({*edges, max_length})
    bars = []
    for low, high in zip(edges, edges[1:]):
        count = int(counts[(lengths > low) & (lengths <= high)].sum())
        bars.append((low + 1, high, count))
    tallest = max(count for _, _, count in bars)
    width = len(f"{bars[-1][1]:,}")
    return [f"{low:>{width},} - {high:>{width},}  {count:>9,}  {'#' * -(-BAR_WIDTH * count // tallest)}"
            f"{'  (cut)' if max_length is not None and low > max_length and count else ''}".rstrip()
            for low, high, count in bars]
