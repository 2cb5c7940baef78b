"""Which kept answers say the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Record:
    """How often a judge found that an answer fitted a question near its own, and that it did not."""

    fitted: float = 0
    failed: float = 0

    def count(self, fits: bool) -> None:
        if fits:
            self.fitted += 1
        else:
            self.failed += 1


@dataclass(slots=True)
class AnswerClass:
    """Entries whose answers say the same, as far as it was judged."""

    members: dict[str, Record] = field(default_factory=dict)
    record: Record = field(default_factory=Record)


class ClassState(msgspec.Struct, array_like=True):
    """`members`: id, fitted, failed."""

    members: list[tuple[str, float, float]]
    fitted: float
    failed: float


class Classes:
    """An entry opens a class of its own, and joins another once its answer is judged equal to one there. Two grown
    classes are never merged: a single wrong judgement misplaces a single entry."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[str, AnswerClass] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._of

    def get(self, entry_id: str) -> AnswerClass | None:
        return self._of.get(entry_id)

    def add(self, entry_id: str) -> None:
        if entry_id not in self._of:
            self._of[entry_id] = AnswerClass({entry_id: Record()})

    def join(self, entry_id: str, other_id: str) -> None:
        """The first moves into the class of the second, if it is alone so far and both are known."""
        own, other = self._of.get(entry_id), self._of.get(other_id)
        if own is None or other is None or own is other or len(own.members) > 1:
            return
        other.members[entry_id] = own.members[entry_id]
        other.record.fitted += own.record.fitted
        other.record.failed += own.record.failed
        self._of[entry_id] = other

    def count(self, entry_id: str, fits: bool) -> None:
        """A judgement about the answer of this entry."""
        its = self._of.get(entry_id)
        if its is not None:
            its.record.count(fits)
            its.members[entry_id].count(fits)

    def drop(self, entry_id: str) -> None:
        """What was judged about it still counts for its class."""
        its = self._of.pop(entry_id, None)
        if its is not None:
            del its.members[entry_id]

    def drop_class(self, entry_id: str) -> tuple[str, ...]:
        """Ids of all of its class, itself first."""
        its = self._of.get(entry_id)
        if its is None:
            return (entry_id,)
        ids = (entry_id, *(each for each in its.members if each != entry_id))
        for each in ids:
            del self._of[each]
        return ids

    def snapshot(self) -> list[ClassState]:
        """Those about which anything is known."""
        states = []
        for its in {id(each): each for each in self._of.values()}.values():
            if len(its.members) > 1 or its.record.fitted or its.record.failed:
                members = [(each, record.fitted, record.failed) for each, record in its.members.items()]
                states.append(ClassState(members, its.record.fitted, its.record.failed))
        return states

    def restore(self, states: Iterable[ClassState]) -> None:
        """In place of what was judged of the entries that are known."""
        known = list(self._of)
        self._of = {}
        for state in states:
            its = AnswerClass(record=Record(state.fitted, state.failed))
            for each, fitted, failed in state.members:
                its.members[each] = Record(fitted, failed)
                self._of[each] = its
        for gone in self._of.keys() - set(known):
            self.drop(gone)
        for each in known:
            self.add(each)
