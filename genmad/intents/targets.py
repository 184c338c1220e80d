"""Which layers a sentence is about, and the ways to say so."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.fresh import FRESH_TARGETS
from genmad.intents.phrasing import Phrases
from genmad.intents.wordings import TARGETS

ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Layers and how they are named.

    Attributes:
        layers: in execution order.
        phrases: noun phrases in template notation, without a preposition.
        exact: whether the phrases hold module names.
        whole: whether it is every layer of the model.
    """

    kind: str
    layers: tuple[Layer, ...]
    phrases: Phrases
    exact: bool = False
    whole: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(layer.path for layer in self.layers)


def nth(number: int) -> str:
    """`third` or `3rd` as a choice in template notation; numbers count from one."""
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"({ORDINALS[number - 1]}|{number}{suffix})" if number <= len(ORDINALS) else f"{number}{suffix}"


def count(number: int) -> str:
    return f"({number}|{COUNTS[number]})" if number < len(COUNTS) else str(number)


@dataclass(frozen=True, slots=True)
class _Nouns:
    """Singular and plural of what a layer is called here; `of` says which list, ` of the encoder` or nothing."""

    one: str
    many: str
    of: str


_BLOCKS = _Nouns("block", "blocks", "")


def _nouns(anatomy: Anatomy, side: str, rng: random.Random) -> _Nouns:
    word = f"{side} " if side else ""
    stems = ["layer", "layer", "block"]
    if anatomy.has_attention and not side:
        stems += ["transformer layer", "transformer block"]
    if anatomy.is_conv and not anatomy.has_attention:
        stems += ["block", "residual block", "conv block"]
    stem = rng.choice(stems)
    if side and rng.random() < 0.4:
        return _Nouns(stem, f"{stem}s", f" (of|in) the {side}")
    return _Nouns(f"{word}{stem}", f"{word}{stem}s", "")


def _worded(kind: str, n: _Nouns, seen: tuple[str, ...], unseen: tuple[str, ...], **fields: object) -> Phrases:
    """The phrases of a kind of target, with the further ones of `wordings`; the usual ones stay the more frequent."""
    words = {"one": n.one, "many": n.many, "of": n.of, **fields}
    more = (text.format(**words) for text in TARGETS.get(kind, ()))
    return Phrases((*seen * 4, *more), unseen, fresh_phrases(kind, **words))


def fresh_phrases(kind: str, **words: object) -> tuple[str, ...]:
    """The fresh phrases of a kind of target."""
    return tuple(text.format(**words) for text in FRESH_TARGETS[kind])


def absent_phrases(one: str, index: int, near: int) -> tuple[str, ...]:
    """The further words for layers at an index that is not there: alone, after `near` in a list, or ending a range."""
    nouns, word = {"one": one, "many": f"{one}s", "of": ""}, nth(index + 1)
    return (
        *(text.format(**nouns, i=index) for text in TARGETS["index"]),
        *(text.format(**nouns, word=word) for text in TARGETS["ordinal"]),
        *(text.format(**nouns, i=near, j=index) for text in TARGETS["range"][::3]),
        *(text.format(**nouns, head=near, last=index) for text in TARGETS["list"][::3]),
    )


Maker = Callable[[Sequence[Layer], _Nouns, random.Random], "Target | None"]


def _last(pool: Sequence[Layer], n: _Nouns, _: random.Random) -> Target:
    seen: tuple[str, ...] = (
        f"the last {n.one}{n.of}",
        f"the last {n.one}{n.of}",
        f"the final {n.one}{n.of}",
        f"last {n.one}{n.of}",
        f"the topmost {n.one}{n.of}",
        f"{n.one} -1{n.of}",
    )
    unseen: tuple[str, ...] = (
        f"the very last {n.one}{n.of}",
        f"the {n.one} (nearest|closest) to the output{n.of}",
        f"the deepest {n.one}{n.of}",
        f"the {n.one} at the end{n.of}",
    )
    return Target(kind="last", layers=(pool[-1],), phrases=_worded("last", n, seen, unseen))


def _first(pool: Sequence[Layer], n: _Nouns, _: random.Random) -> Target:
    seen: tuple[str, ...] = (
        f"the first {n.one}{n.of}",
        f"the first {n.one}{n.of}",
        f"first {n.one}{n.of}",
        f"the bottom {n.one}{n.of}",
        f"the lowest {n.one}{n.of}",
    )
    unseen: tuple[str, ...] = (
        f"the very first {n.one}{n.of}",
        f"the {n.one} (nearest|closest) to the input{n.of}",
        f"the initial {n.one}{n.of}",
        f"the {n.one} at the start{n.of}",
    )
    return Target(kind="first", layers=(pool[0],), phrases=_worded("first", n, seen, unseen))


def _index(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target:
    layer = rng.choice(pool)
    i = layer.index
    seen: tuple[str, ...] = (
        f"{n.one} {i}{n.of}",
        f"{n.one} {i}{n.of}",
        f"{n.one} number {i}{n.of}",
        f"{n.one} #{i}{n.of}",
        f"the {n.one} {i}{n.of}",
    )
    unseen: tuple[str, ...] = (f"the {n.one} with index {i}{n.of}", f"{n.one} no. {i}{n.of}", f"{n.one}[{i}]{n.of}")
    return Target(kind="index", layers=(layer,), phrases=_worded("index", n, seen, unseen, i=i))


def _ordinal(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    position = rng.randrange(min(len(pool), 16))
    layer, word = pool[position], nth(position + 1)
    seen: tuple[str, ...] = (f"the {word} {n.one}{n.of}", f"{word} {n.one}{n.of}")
    unseen: tuple[str, ...] = (f"the {n.one} in {word} place{n.of}", f"the {n.one} that comes {word}{n.of}")
    return Target(kind="ordinal", layers=(layer,), phrases=_worded("ordinal", n, seen, unseen, word=word))


def _from_end(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    if len(pool) < 3:
        return None
    back = rng.choice([2, 2, 3])
    word = {2: "second", 3: "third"}[back]
    seen: tuple[str, ...] = (
        f"the {word} to last {n.one}{n.of}",
        f"the {word}-to-last {n.one}{n.of}",
        f"the {word} last {n.one}{n.of}",
        f"{n.one} -{back}{n.of}",
    )
    unseen: tuple[str, ...] = (f"the {word} {n.one}{n.of} (counted|counting) from the end",)
    if back == 2:
        seen, unseen = (
            (*seen, f"the penultimate {n.one}{n.of}"),
            (*unseen, f"the {n.one}{n.of} right before the last one"),
        )
    return Target(
        kind="from_end", layers=(pool[-back],), phrases=_worded("from_end", n, seen, unseen, word=word, back=back)
    )


def _name(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target:
    layer = rng.choice(pool)
    short = ".".join(layer.path.split(".")[-2:])
    forms = [layer.path, layer.path, f"{layer.path}"]
    if sum(x.path.endswith("." + short) or x.path == short for x in pool) == 1 and not layer.side and layer.stage < 0:
        forms += [short, f"the block {short}", short.replace(".", "[") + "]"]
    return Target(
        kind="name",
        layers=(layer,),
        phrases=_worded("name", n, tuple(forms), (f"the module {layer.path}", f"`{layer.path}`"), path=layer.path),
        exact=True,
    )


def _every_other(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    if len(pool) < 3:
        return None
    if rng.random() < 0.7:
        seen: tuple[str, ...] = (
            f"every other {n.one}{n.of}",
            f"every second {n.one}{n.of}",
            f"alternate {n.many}{n.of}",
            f"the even {n.many}{n.of}",
            f"all even {n.many}{n.of}",
        )
        unseen: tuple[str, ...] = (
            f"one {n.one} in two{n.of}",
            f"every alternate {n.one}{n.of}",
            f"the even-numbered {n.many}{n.of}",
        )
        return Target(kind="every_other", layers=tuple(pool[::2]), phrases=_worded("every_other", n, seen, unseen))
    seen = (f"the odd {n.many}{n.of}", f"all odd {n.many}{n.of}", f"odd {n.many}{n.of}")
    return Target(
        kind="odd", layers=tuple(pool[1::2]), phrases=_worded("odd", n, seen, (f"the odd-numbered {n.many}{n.of}",))
    )


def _range(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    if len(pool) < 3:
        return None
    a = rng.randrange(len(pool) - 1)
    b = rng.randrange(a + 1, min(len(pool), a + 9))
    i, j = pool[a].index, pool[b].index
    seen: tuple[str, ...] = (f"{n.many} {i} to {j}{n.of}", f"{n.many} {i}-{j}{n.of}", f"{n.many} {i} through {j}{n.of}",
        f"the {n.many} {i} to {j}{n.of}",
            f"{n.many} from {i} to {j}{n.of}")  # fmt: skip
    unseen: tuple[str, ...] = (
        f"{n.many} {i} up to and including {j}{n.of}",
        f"{n.many} {i} thru {j}{n.of}",
        f"{n.many} {i}..{j}{n.of}",
    )
    return Target(kind="range", layers=tuple(pool[a : b + 1]), phrases=_worded("range", n, seen, unseen, i=i, j=j))


def _list(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    if len(pool) < 3:
        return None
    some = sorted(rng.sample(range(len(pool)), 2 if len(pool) < 4 or rng.random() < 0.6 else 3))
    *rest, last = [str(pool[i].index) for i in some]
    head = ", ".join(rest)
    seen: tuple[str, ...] = (
        f"{n.many} {head} and {last}{n.of}",
        f"the {n.many} {head} and {last}{n.of}",
        f"{n.many} {head}, {last}{n.of}",
    )
    unseen: tuple[str, ...] = (f"{n.many} {head} & {last}{n.of}", f"{n.many} {head} as well as {last}{n.of}")
    return Target(
        kind="list", layers=tuple(pool[i] for i in some), phrases=_worded("list", n, seen, unseen, head=head, last=last)
    )


def _end_group(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    if len(pool) < 3:
        return None
    size = rng.randrange(2, min(len(pool), 9))
    word = count(size)
    if rng.random() < 0.5:
        seen: tuple[str, ...] = (
            f"the last {word} {n.many}{n.of}",
            f"last {word} {n.many}{n.of}",
            f"the final {word} {n.many}{n.of}",
            f"the top {word} {n.many}{n.of}",
        )
        unseen: tuple[str, ...] = (
            f"the {word} {n.many}{n.of} (nearest|closest) to the output",
            f"the {word} deepest {n.many}{n.of}",
        )
        return Target(kind="last_n", layers=tuple(pool[-size:]), phrases=_worded("last_n", n, seen, unseen, word=word))
    seen = (f"the first {word} {n.many}{n.of}", f"first {word} {n.many}{n.of}", f"the bottom {word} {n.many}{n.of}")
    unseen = (f"the {word} {n.many}{n.of} (nearest|closest) to the input", f"the initial {word} {n.many}{n.of}")
    return Target(kind="first_n", layers=tuple(pool[:size]), phrases=_worded("first_n", n, seen, unseen, word=word))


def _half(pool: Sequence[Layer], n: _Nouns, rng: random.Random) -> Target | None:
    if len(pool) < 4 or len(pool) % 2:
        return None
    middle = len(pool) // 2
    if rng.random() < 0.5:
        seen: tuple[str, ...] = (f"the first half of the {n.many}{n.of}", f"the lower half of the {n.many}{n.of}")
        return Target(
            kind="half",
            layers=tuple(pool[:middle]),
            phrases=_worded("half_first", n, seen, (f"the earlier half of the {n.many}{n.of}",)),
        )
    seen = (f"the second half of the {n.many}{n.of}", f"the upper half of the {n.many}{n.of}")
    return Target(
        kind="half",
        layers=tuple(pool[middle:]),
        phrases=_worded("half_second", n, seen, (f"the later half of the {n.many}{n.of}",)),
    )


def _all(pool: Sequence[Layer], n: _Nouns, _: random.Random) -> Target:
    seen: tuple[str, ...] = (
        f"all {n.many}{n.of}",
        f"all the {n.many}{n.of}",
        f"every {n.one}{n.of}",
        f"each {n.one}{n.of}",
        f"every single {n.one}{n.of}",
    )
    unseen: tuple[str, ...] = (
        f"each and every {n.one}{n.of}",
        f"the full set of {n.many}{n.of}",
        f"all {n.many}{n.of} without exception",
    )
    return Target(kind="all", layers=tuple(pool), phrases=_worded("all", n, seen, unseen))


_ONE: tuple[tuple[Maker, float], ...] = (
    (_last, 4),
    (_first, 2),
    (_index, 3),
    (_ordinal, 1.5),
    (_from_end, 0.7),
    (_name, 2),
)
_MANY: tuple[tuple[Maker, float], ...] = (
    (_every_other, 1.5), (_range, 2), (_list, 1.2), (_end_group, 1.5), (_half, 0.5), (_all, 2.5),
)  # fmt: skip
_NUMBERED = frozenset({_index, _range, _list})


def pick_target(
    anatomy: Anatomy, rng: random.Random, fits: Callable[[Layer], bool] = lambda _: True, *, single: bool = False
) -> Target | None:
    """A target among the layers, all of which must fit; None when none was found.

    "The last layer" of a model with encoder and decoder is the decoder's last.
    """
    layers = anatomy.layers
    if not layers:
        return None
    for _ in range(6):
        target = _draw(anatomy, layers, rng, single)
        if target is not None and all(fits(layer) for layer in target.layers):
            return target
    return None


def _draw(anatomy: Anatomy, layers: Sequence[Layer], rng: random.Random, single: bool) -> Target | None:
    side = rng.choice(anatomy.sides) if anatomy.sides else ""
    pool = [layer for layer in layers if layer.side == side]
    menu = _ONE if single or rng.random() < 0.55 else _MANY
    maker = rng.choices([m for m, _ in menu], [w for _, w in menu])[0]
    spoken = side
    if side == "decoder" and maker is _last and rng.random() < 0.3:
        spoken = ""
    if side and maker is _all and rng.random() < 0.4:
        spoken, pool = "", list(layers)
    if pool[0].stage >= 0:
        return _staged(pool, maker, rng)
    if side and maker is _all and spoken and rng.random() < 0.4:
        seen = (f"the {side}", f"the whole {side}", f"the entire {side}")
        phrases = _worded("side", _BLOCKS, seen, (f"the {side} side", f"the {side} as a whole"), side=side)
        return Target(kind="side", layers=tuple(pool), phrases=phrases)
    if maker in _NUMBERED and len({layer.stem for layer in pool}) > 1:
        return None
    target = maker(pool, _nouns(anatomy, spoken, rng), rng)
    if target is None:
        return None
    return _with_whole(target, layers)


def _with_whole(target: Target, layers: Sequence[Layer]) -> Target:
    whole = len(target.layers) == len(layers)
    return Target(kind=target.kind, layers=target.layers, phrases=target.phrases, exact=target.exact, whole=whole)


def _staged(pool: Sequence[Layer], maker: Maker, rng: random.Random) -> Target | None:
    """Targets in a model of stages: a layer of a stage, a whole stage, or the ends of the model."""
    one = rng.choice(("block", "layer"))
    nouns = _Nouns(one, f"{one}s", "")
    if maker in (_last, _first, _name, _all) and rng.random() < 0.5:
        target = maker(pool, nouns, rng)
        return _with_whole(target, pool) if target else None
    stages = list(dict.fromkeys(layer.stage for layer in pool))
    place = rng.randrange(len(stages))
    mine = [layer for layer in pool if layer.stage == stages[place]]
    names = [f"stage {stages[place]}", f"the {nth(place + 1)} stage"]
    if place == len(stages) - 1:
        names += ["the last stage", "the final stage"]
    name = "(" + "|".join(n for n in names if "(" not in n) + ")" if rng.random() < 0.7 else names[1]
    if maker in (_all, _half, _end_group):
        whole = (
            name,
            f"all {one}s of {name}",
            f"every {one} in {name}",
            f"the {one}s of {name}",
            f"each {one} of {name}",
        )
        unseen = (f"the whole of {name}", f"{name} as a whole")
        return Target(kind="stage", layers=tuple(mine), phrases=_worded("stage", nouns, whole, unseen, name=name))
    return maker(mine, _Nouns(one, f"{one}s", f" (of|in) {name}"), rng)
