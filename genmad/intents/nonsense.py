"""Sentences that ask for nothing a graph can have: off-topic, empty of meaning, or word salad."""

import random

from genmad.intents.fresh.talk import OFF_TOPIC as FRESH_OFF_TOPIC
from genmad.intents.wordings.off_topic import OFF_TOPIC as MORE_OFF_TOPIC

OFF_TOPIC = (
    "what is the weather (today|tomorrow|in {place})", "tell me a (joke|story|poem)",
    "who (won|is winning) the (match|election|race)",
    "write (a poem|an email|a letter) to my (boss|friend|mother)",
    "book a (flight|table|hotel) (for two|to {place})", "translate this (text|page) (to|into) (French|German)",
    "how (old|tall|fast) is (the universe|a giraffe|the queen)", "play (some|my favourite) music",
    "buy (milk|bread|{n} apples)", "what time is it in {place}",
    "is this model (good|nice|fast)", "why (is|was) it so (slow|big|expensive)",
    "make it (better|nicer|faster|good|smarter)", "improve (it|everything|the accuracy)",
    "do something (nice|useful|clever)", "fix (it|the bug|everything)",
    "train the model (on ImageNet|for {n} epochs|tomorrow)", "download the (weights|data set)",
    "who trained this model", "how many parameters does it have", "print the (summary|weights|loss)",
    "open the (window|door) please", "turn on the (light|heater|radio)",
    "add (sugar|salt|{n} eggs|milk) to the (tea|soup|cake)",
    "remove the (stain|cat|snow) from the (sofa|street|roof)", "replace the (battery|tyre|lamp)",
    "insert a (coin|card|disk)", "make the (coffee|bed|dinner) (stronger|bigger|local)",
    "connect the (printer|phone|tv) to the (network|wifi)", "hello (there|world|model|)",
    "thanks (a lot|so much|)", "yes", "no", "ok", "test", "help (me|)", "the (house|dog|sun) is (blue|big|tired)",
    "my (car|bike) has {n} (wheels|heads|layers of paint)",
    "{n}", "call me in {n} minutes", "(change|set) the (alarm|thermostat) to {n}",
    "what is (attention|a transformer|love)", "explain (attention|this model|LoRA) to me",
)  # fmt: skip
OFF_TOPIC_UNSEEN = (
    "recommend a (book|film) about {place}", "sell my (car|house)", "where can I find (a doctor|good pizza)",
    "sing (a song|something)", "how do I cook (rice|{n} eggs)",
    "summarise the (news|meeting)", "wake me at {n}", "cancel my (order|subscription)",
    "deploy it to (production|the cloud)", "paint the (fence|wall) green",
)  # fmt: skip
_PLACES = ("Paris", "Rome", "Tokyo", "Berlin", "Oslo", "Lima")
_SYLLABLES = (
    "ba",
    "ko",
    "ri",
    "tu",
    "zen",
    "mar",
    "lo",
    "fi",
    "gra",
    "pel",
    "sno",
    "vik",
    "qua",
    "du",
    "xi",
    "ne",
    "th",
    "or",
    "ul",
    "ast",
)
_SALAD = (
    "banana", "purple", "seventeen", "quickly", "the", "of", "under", "yesterday", "elephant", "blue", "and",
    "cloud", "sing", "sideways", "never", "tooth", "river", "lamp",
    "very", "between", "with", "green", "paper", "dance", "if", "or", "loud", "cheese", "moon", "upon", "slow",
    "carpet",
)  # fmt: skip
_TERMS = ("layer", "attention", "head", "kernel", "mlp", "conv", "rank", "norm", "window")


def word(rng: random.Random) -> str:
    """A pronounceable word that means nothing."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randrange(2, 5)))


def sentence(rng: random.Random, unseen: bool, fresh: bool = False) -> tuple[str, str]:
    """A senseless prompt in template notation, and which kind it is."""
    kind = rng.choices(("topic", "salad", "letters", "mixed"), (5, 2, 1, 2))[0]
    if kind == "topic":
        held_out = FRESH_OFF_TOPIC if fresh else OFF_TOPIC_UNSEEN
        text = rng.choice(held_out if unseen or fresh else (*OFF_TOPIC, *MORE_OFF_TOPIC))
        return text.replace("{place}", rng.choice(_PLACES)).replace("{n}", str(rng.randrange(2, 60))), kind
    if kind == "salad":
        return " ".join(rng.choice(_SALAD) for _ in range(rng.randrange(2, 10))), kind
    if kind == "letters":
        return " ".join(word(rng) for _ in range(rng.randrange(1, 6))), kind
    words = [rng.choice(_SALAD) if rng.random() < 0.5 else word(rng) for _ in range(rng.randrange(2, 6))]
    words.insert(rng.randrange(len(words)), rng.choice(_TERMS))
    return " ".join(words), kind
