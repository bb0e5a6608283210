"""`Distribution`: what a histogram knows of durations, frozen, and what one has had since another.

Pure values; any thread.
"""

from collections.abc import Iterable
from dataclasses import dataclass

DistributionTuple = tuple[int, float, float, float, list[tuple[float, float, int]]]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations seen so far, in seconds; all zero when there is none.

    `later - earlier` is what was added between two snapshots of one distribution.

    Attributes:
        count: How many.
        sum: Their sum.
        min: The shortest.
        max: The longest.
        buckets: The histogram's filled buckets as (from, to, count), ascending; each is at most an eighth wide.
    """

    count: int = 0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0
    buckets: tuple[tuple[float, float, int], ...] = ()

    @property
    def mean(self) -> float:
        """The average, or zero when there is none."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, fraction: float) -> float:
        """The duration that `fraction` of all do not exceed, to an eighth of its value.

        Raises:
            ValueError: When `fraction` is not between 0 and 1.
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction={fraction!r} is not between 0 and 1: the 99th percentile is 0.99")
        # The histogram and the counters are read one after the other: the histogram's own total is the one that counts.
        rank = fraction * sum(count for _, _, count in self.buckets)
        below = 0
        for start, end, count in self.buckets:
            if below + count >= rank:
                within = start + (end - start) * (rank - below) / count
                return min(max(within, self.min), self.max)
            below += count
        return self.max

    @property
    def p50(self) -> float:
        """The median."""
        return self.quantile(0.5)

    @property
    def p90(self) -> float:
        """The 90th percentile."""
        return self.quantile(0.9)

    @property
    def p99(self) -> float:
        """The 99th percentile."""
        return self.quantile(0.99)

    def __sub__(self, earlier: "Distribution") -> "Distribution":
        """What was added since `earlier`, a snapshot of the same distribution.

        Count, sum and buckets are the differences. The extremes are exact where the window brought a new one, which
        includes each window that starts with nothing; otherwise they are the bounds of the window's own outermost
        buckets, so `min` is up to an eighth too short and `max` up to an eighth too long.

        Raises:
            ValueError: When `earlier` is the later one, or of another distribution.
        """
        counts = {start: count for start, _, count in earlier.buckets}
        buckets = [(start, end, count - counts.pop(start, 0)) for start, end, count in self.buckets]
        if counts or any(count < 0 for _, _, count in buckets):
            raise ValueError(
                f"what is subtracted has {earlier.count} durations that the other's {self.count} do not include: "
                "subtract the earlier of two snapshots of the same thing from the later, as in `later - earlier`"
            )
        filled = tuple(bucket for bucket in buckets if bucket[2])
        if not filled:
            return Distribution()
        shortest, longest = max(filled[0][0], self.min), min(filled[-1][1], self.max)
        if not earlier.count or self.min < earlier.min:
            shortest = self.min
        if self.max > earlier.max:
            longest = self.max
        # A loop that records meanwhile may have added to the one and not yet to the other: the buckets have the say.
        least = sum(start * count for start, _, count in filled)
        most = sum(end * count for _, end, count in filled)
        return Distribution(
            count=sum(count for _, _, count in filled),
            sum=min(max(self.sum - earlier.sum, least), most),
            min=shortest,
            max=longest,
            buckets=filled,
        )

    @classmethod
    def merged(cls, parts: Iterable["Distribution"]) -> "Distribution":
        """All of `parts` as one."""
        filled = [part for part in parts if part.count]
        if not filled:
            return cls()
        # A bucket is known by its start: the last of all has no end of its own, and ends with the longest duration.
        counts: dict[float, tuple[float, int]] = {}
        for part in filled:
            for start, end, count in part.buckets:
                known_end, known_count = counts.get(start, (end, 0))
                counts[start] = (max(end, known_end), known_count + count)
        return cls(
            count=sum(part.count for part in filled),
            sum=sum(part.sum for part in filled),
            min=min(part.min for part in filled),
            max=max(part.max for part in filled),
            buckets=tuple((start, end, count) for start, (end, count) in sorted(counts.items())),
        )


def distribution(values: DistributionTuple) -> Distribution:
    """Gives the values that Rust snapshots their names."""
    count, total, shortest, longest, buckets = values
    if not buckets:
        return Distribution()
    # Read one after the other while the loop records: the extremes are what the buckets allow.
    first, last = buckets[0], buckets[-1]
    shortest = min(max(shortest, first[0]), first[1])
    longest = min(max(longest, last[0]), last[1])
    return Distribution(count, total, shortest, longest, tuple(buckets))
