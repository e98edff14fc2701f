"""What a prepared data set holds, in a few lines: rows, tokens, and what max_length will cut."""

from collections import Counter

import numpy as np

BAR_WIDTH = 30


class LengthCounts:
    """Exact counts of row lengths, in memory of the number of different lengths."""

    def __init__(self):
        self.counts = Counter()

    def add(self, rows: list[np.ndarray]) -> None:
        self.counts.update(map(len, rows))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.array(sorted(self.counts), dtype=np.int64)
        return lengths, np.array([self.counts[length] for length in lengths], dtype=np.int64)

    def percentile(self, share: float) -> int:
        """Smallest length that at least `share` of the rows do not exceed."""
        lengths, counts = self.arrays()
        return int(lengths[np.searchsorted(np.cumsum(counts), share * counts.sum())])

    def lines(self, max_length: int | None) -> list[str]:
        lengths, counts = self.arrays()
        rows, tokens = int(counts.sum()), int((lengths * counts).sum())
        kept = lengths if max_length is None else np.minimum(lengths, max_length)
        lines = [f"length: median {self.percentile(0.5):,}, mean {tokens / rows:,.0f}, 95 % at most {self.percentile(0.95):,}, longest {lengths[-1]:,}"]
        if max_length is not None:
            cut = counts[lengths > max_length].sum()
            lost = tokens - int((kept * counts).sum())
            lines.append(f"max_length = {max_length:,} cuts {cut:,} rows ({cut / rows:.1%}) and leaves out {lost:,} tokens ({lost / tokens:.1%})")
        targets = int(((kept - 1) * counts).sum())
        lines.append(f"target tokens in an epoch{'' if max_length is None else ' after the cut'}: {targets:,}")
        return lines + self.histogram(max_length)

    def histogram(self, max_length: int | None) -> list[str]:
        lengths, counts = self.arrays()
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
