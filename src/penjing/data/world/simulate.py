"""The world's state and what changes it: people move, take, drop and give things; the story is what they did.

Each event is a clause (what is told) together with its effect on the state (what is true afterwards), so every question
has an answer that was computed, not written down.
"""

from dataclasses import dataclass, field

from penjing.data.world.lexicon.entries import Name, Place, Thing
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import DROPS, GIVES, MOVES, TAKES, Clause, Phrase


@dataclass(slots=True)
class State:
    """Who is where, who holds what, where things lie, and all that happened."""

    people: list[Name]
    places: list[Place]
    things: list[Thing]
    at: dict[Name, Place] = field(default_factory=dict)
    holder: dict[str, Name] = field(default_factory=dict)
    lies: dict[str, Place] = field(default_factory=dict)
    clauses: list[Clause] = field(default_factory=list)
    log: list[tuple[Name | Thing, tuple[Name | Place, ...]]] = field(default_factory=list)
    """What each event made true: who is where, what is with whom (after a gift: with whom before and now) or where."""
    gifts: list[tuple[Name, Thing, Name]] = field(default_factory=list)

    def where(self, thing: Thing) -> Place | None:
        """Where a thing is: with its holder, or where it lies; None when the story has not said."""
        holder = self.holder.get(thing.en)
        return self.at.get(holder) if holder is not None else self.lies.get(thing.en)

    def move(self, scene: Scene, person: Name, place: Place) -> None:
        """Someone goes to a place."""
        self.at[person] = place
        self.log.append((person, (place,)))
        self.clauses.append(Clause(person, scene.dice.pick(MOVES[:4]), place=place))

    def take(self, scene: Scene, person: Name, thing: Thing) -> None:
        """Someone takes a thing."""
        self.holder[thing.en] = person
        self.log.append((thing, (person,)))
        self.lies.pop(thing.en, None)
        self.clauses.append(Clause(person, scene.dice.pick(TAKES), Phrase(thing, "the")))

    def drop(self, scene: Scene, person: Name, thing: Thing) -> None:
        """Someone puts a thing down where they are."""
        self.holder.pop(thing.en)
        if person in self.at:
            self.lies[thing.en] = self.at[person]
            self.log.append((thing, (self.at[person],)))
        self.clauses.append(Clause(person, scene.dice.pick(DROPS), Phrase(thing, "the")))

    def give(self, scene: Scene, person: Name, thing: Thing, to: Name) -> None:
        """Someone gives a thing to someone else."""
        self.holder[thing.en] = to
        self.log.append((thing, (person, to)))
        self.gifts.append((person, thing, to))
        self.clauses.append(Clause(person, scene.dice.pick(GIVES), Phrase(thing, "the"), to))


def moving(scene: Scene, people: int, places: int, steps: int) -> State:
    """A story of moves only: everyone ends somewhere that the story says."""
    dice = scene.dice
    state = State(scene.names(people), scene.places(places), [])
    order = list(state.people)
    for i in range(steps):
        person = order[i] if i < people else dice.pick(order)
        here = state.at.get(person)
        place = dice.pick(state.places)
        while place is here or (i == 1 and place is state.clauses[0].place):
            place = dice.pick(state.places)
        state.move(scene, person, place)
    return state
