"""Counts values over all pairs, and finds problems that only show in all pairs together."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from cpnet_jax.data.catalog import FolderDataset
from cpnet_jax.data.doctor.examined_data import ExaminedData
from cpnet_jax.data.doctor.findings import KINDS, Finding, is_fault
from cpnet_jax.data.doctor.scan import Observation
from cpnet_jax.data.value_range import Extremes, ValueRange

# A class is rare if its share of the training split's labelled pixels is below this.
RARE = 1e-4
# Value 0 looks like an outline, not an object, if a larger share of its pixels than this is near other values.
OUTLINED = 0.8


@dataclass(frozen=True)
class Census:
    """Counts over all pairs of a dataset.

    Attributes:
      data: the data that was examined.
      observations: the result for every pair.
      train_split, eval_split: the config's splits; each may be several, joined by "+".
    """

    data: ExaminedData
    observations: Sequence[Observation]
    train_split: str
    eval_split: str

    @cached_property
    def pixels(self) -> dict[str, Counter[int]]:
        """Split -> raw value -> pixels."""
        counts = {split: Counter() for split in self.data.splits}
        for seen in self.observations:
            counts[seen.entry.split].update(seen.values)
        return counts

    @cached_property
    def images(self) -> dict[str, Counter[int]]:
        """Split -> raw value -> labels that hold it."""
        counts = {split: Counter() for split in self.data.splits}
        for seen in self.observations:
            counts[seen.entry.split].update(seen.values.keys())
        return counts

    @cached_property
    def values(self) -> list[int]:
        """All raw values that are known or that a label holds."""
        return sorted(self.data.rule.keys() | set().union(*self.pixels.values()))

    @cached_property
    def class_pixels(self) -> dict[str, Counter[str]]:
        """Split -> class -> pixels, in the order of the classes."""
        counts = {split: Counter(dict.fromkeys(self.data.dataset.classes, 0)) for split in self.data.splits}
        for split, raw_counts in self.pixels.items():
            for raw, count in raw_counts.items():
                name = self.data.becomes(raw)
                if name in counts[split]:
                    counts[split][name] += count
        return counts

    def class_pixels_in(self, joined: str) -> Counter[str]:
        """Returns class -> pixels of one split, or of several joined by "+"."""
        return sum((self.class_pixels[split] for split in joined.split("+")), Counter())

    @cached_property
    def sizes(self) -> Counter[tuple[int, int]]:
        """(width, height) -> images."""
        return Counter(seen.size for seen in self.observations if seen.size)

    @cached_property
    def deep_images(self) -> dict[str, Extremes]:
        """Name -> extremes, of the images of more than 8 bits."""
        return {seen.entry.image: seen.extremes for seen in self.observations if seen.extremes}

    @cached_property
    def value_range(self) -> ValueRange | None:
        """The range by which preparing scales images of more than 8 bits; None: divided by 256, or unknown."""
        return None if self.range_unknown or not self.deep_images else self.data.find_range(self.deep_images)

    @cached_property
    def range_unknown(self) -> str:
        """Why the value range of images of more than 8 bits cannot be found; empty if it can."""
        try:
            self.deep_images and self.data.find_range(self.deep_images)
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def findings(self) -> list[Finding]:
        """All problems, faults first."""
        found = [*self.data.unpaired]
        for seen in self.observations:
            found += seen.findings
        if self.range_unknown:
            found.append(Finding("unknown_range", self.data.origin, self.range_unknown))
        for look in (_shifted, _repeated, _unlabelled, _classes, _void_classes, _zero_outlines, _split_sizes):
            found += look(self)
        order = list(KINDS)
        return sorted(found, key=lambda finding: (not is_fault(finding), order.index(finding.kind)))

    @property
    def faults(self) -> int:
        """Number of faults."""
        return sum(map(is_fault, self.findings))


def _shifted(census: Census) -> Iterator[Finding]:
    """Finds signs that all label values are one too high or too low."""
    if census.data.in_colours:
        return
    known = census.data.rule.keys()
    seen = set().union(*census.pixels.values())
    unknown = sorted(seen - known)
    span = f"{min(known)} to {max(known)}"
    if unknown:
        # 0 and 255 mean void in many datasets, and are not shifted with the classes.
        moved = seen - {0, 255}
        for shift in (-1, 1):
            if moved and moved - known and {value + shift for value in moved} <= known:
                where, lower = f"values {min(seen)} to {max(seen)}", "lower" if shift < 0 else "higher"
                yield Finding("off_by_one", where, f"known are {span}; all would be known if they were one {lower}")
    classes = {raw for raw in known if census.data.becomes(raw) != "ignored"}
    if not unknown and len(classes) > 2 and len(classes - seen) == 1:
        [missing] = classes - seen
        if missing in (min(classes), max(classes)):
            which = "first" if missing == min(classes) else "last"
            yield Finding("off_by_one", f"value {missing}", f"the {which} class, and the only one that no label holds")
    if 255 in unknown:
        yield Finding("off_by_one", "value 255", "unknown here; often means void, or is 0 - 1 in eight bits")


def _repeated(census: Census) -> Iterator[Finding]:
    first: dict[str, Observation] = {}
    for seen in census.observations:
        if not seen.image_digest:
            continue
        earlier = first.setdefault(seen.image_digest, seen)
        if earlier is seen:
            continue
        same_split = earlier.entry.split == seen.entry.split
        labels = "" if earlier.label_digest == seen.label_digest else ", with another label"
        kind = "duplicate_image" if same_split else "in_two_splits"
        yield Finding(kind, seen.entry.image, f"same pixels as {earlier.entry.image}{labels}")


def _unlabelled(census: Census) -> Iterator[Finding]:
    rule, ignore = census.data.rule, census.data.dataset.ignore_label
    for seen in census.observations:
        if seen.values and all(rule.get(value) == ignore for value in seen.values):
            raw = ", ".join(map(str, seen.values))
            yield Finding("all_ignored", seen.entry.label, f"only {raw}")
    for split in dict.fromkeys((census.train_split, census.eval_split)):
        if not census.class_pixels_in(split).total():
            yield Finding("no_labels", split)


def _classes(census: Census) -> Iterator[Finding]:
    trained = census.class_pixels_in(census.train_split)
    total = trained.total()
    for name in census.data.dataset.classes:
        if not any(counts[name] for counts in census.class_pixels.values()):
            yield Finding("class_never_seen", name)
        elif not trained[name]:
            seen = {split: counts[name] for split, counts in census.class_pixels.items() if counts[name]}
            detail = ", ".join(f"{count} pixels in {split}" for split, count in seen.items())
            yield Finding("class_not_trained", name, detail)
        elif trained[name] < RARE * total:
            share = f"{100 * trained[name] / total:.2g} %"
            yield Finding("class_rare", name, f"{trained[name]} pixels, {share} of the labelled training pixels")


def _void_classes(census: Census) -> Iterator[Finding]:
    dataset = census.data.dataset
    if isinstance(dataset, FolderDataset):  # in published datasets, such classes are meant
        for name in dataset.table.unlabelled():
            yield Finding("void_class", name)


def _zero_outlines(census: Census) -> Iterator[Finding]:
    """Finds void saved as 0 or black, by its shape: thin lines along the borders of objects."""
    name = census.data.becomes(0)
    if census.data.stored_as and not {"0", "0 0 0"} & set(census.data.stored_as.get(0, ())):
        return  # the first class of a user's folder, whatever its value or colour
    zeros = sum(counts[0] for counts in census.pixels.values())
    near = sum(seen.zero_outline for seen in census.observations)
    if name not in (None, "ignored") and near > OUTLINED * zeros:
        masks = sum(counts[0] for counts in census.images.values())
        clearest = max(census.observations, key=lambda seen: seen.zero_outline).entry.label
        detail = (
            f"trained as {name}; in {masks} mask(s), such as {clearest}, {100 * near / zeros:.0f} % of its pixels are "
            "within 3 pixels of another value"
        )
        yield Finding("zero_outlines", f"value {census.data.stored(0)}", detail)


def _split_sizes(census: Census) -> Iterator[Finding]:
    for split, published in census.data.dataset.splits.items():
        found = len(census.data.splits.get(split, ()))
        if found != published:
            yield Finding("split_size", split, f"{found} pairs here, {published} in the publication")
