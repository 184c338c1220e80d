"""Edits of what ends a model: how many classes it tells apart, and a classification head where there is none."""

import random

from genmad.intents.anatomy import Anatomy
from genmad.intents.draft import Draft, Intent, refusal_draft
from genmad.intents.phrasing import Phrases
from genmad.intents.types import Request
from genmad.intents.values import usual
from genmad.intents.writing import Number, ScriptWriter
from genmad.ir.graph import Place, producer

CLASSES = (2, 3, 4, 5, 8, 10, 10, 12, 20, 21, 47, 50, 91, 100, 100, 101, 120, 196, 200, 256, 365, 500, 1000, 21841)


def head_of(anatomy: Anatomy) -> Place | None:
    """The Linear that makes the model's first output [batch, classes]; None where there is none or it is tied."""
    graph = anatomy.graph
    value, prefix, block = graph.main.outputs[0], "", graph.main
    while (node := block.by_name.get(producer(value))) is not None and node.is_call:
        value = graph.block_map[node.callee].outputs[node.outputs.index(value)]
        prefix, block = (f"{prefix}{node.scope}." if node.scope else prefix), graph.block_map[node.callee]
    if node is None or node.op != "Linear" or node.types[0].rank != 2:
        return None
    place = anatomy.paths.get(prefix + node.name)
    names = [p.prefix + name for p in anatomy.places for _, name in p.node.params]
    tied = any(names.count(prefix + name) > 1 for _, name in node.params)
    return None if place is None or tied else place


def _class_words(count: int) -> Phrases:
    noun = "classes" if count != 1 else "class"
    seen = (f"{count} {noun}", f"{count} {noun}", f"{count} categories", f"{count} labels", f"{count} output classes")
    return Phrases(seen, (f"{count} different {noun}", f"{count} targets"))


def _propose_size(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    head = head_of(anatomy)
    if head is None:
        return None
    now = head.node.attr_map["out_features"]
    count = usual(rng, CLASSES, 2, 1200) if rng.random() < 0.95 else now
    request = Request(
        intent="num_classes", nodes=(head.path,), values=(("classes", count),),
        refusal="already_so" if count == now else "",
    )  # fmt: skip

    def build(writer: ScriptWriter) -> None:
        writer.at(*([head.prefix.rstrip(".")] if head.prefix else []))
        writer.set(head.node.name, out_features=Number.of(count))

    return Draft(request=request, slots={"classes": _class_words(count)}, build=None if count == now else build)


def _no_head(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """A model that ends in features or in one prediction per position."""
    if head_of(anatomy) is not None:
        return None
    count = usual(rng, CLASSES, 2, 1200)
    return refusal_draft("num_classes", "no_such_target", {"classes": _class_words(count)})


NUM_CLASSES = Intent(
    name="num_classes",
    reading="resize",
    seen=(
        "(change|set|adjust) the (number of classes|output|classifier|head) to {classes}",
        "(make|have) the (model|network) (predict|classify|tell apart|distinguish) {classes}",
        "(use|have) {classes} instead of the (present|current) ones",
        "~{classes}",
        "~{classes} instead",
        "resize the (classifier|head|classification head|last layer|output layer) (to|for) {classes}",
        "adapt the (model|network|classifier|head) to {classes}",
        "let the (classifier|head|last layer|model) have {classes}",
        "~the (model|network|classifier) should have {classes}",
        "~I (have|need) {classes}",
        "~my data (set|) has {classes}, adapt the head",
        "~(could|can) you change the (head|classifier) to {classes}?",
        "(switch|move) to {classes}",
        "give the (model|classifier|head) {classes}",
        "(train|fine-tune|prepare) it (on|for) {classes}: resize the head",
        "set num_classes so that there are {classes}",
        "(replace|exchange) the (head|classifier) (by|for) one with {classes}",
        "make the (final|last) linear layer (output|give) {classes}",
        "make the output {classes} wide",
        "configure the (head|classifier|output layer) for {classes}",
        "~(output|head|classifier): {classes}",
        "make it a classifier (of|for) {classes}",
    ),
    unseen=(
        "~the task now has {classes}",
        "reshape the final projection for {classes}",
        "fit the output side to {classes}",
        "let it choose among {classes}",
        "~from now on we deal with {classes}",
        "tailor the last layer to {classes}",
    ),
    propose=_propose_size,
    refuse=(_no_head,),
    weight=0.8,
)


def _features(anatomy: Anatomy) -> str:
    """The model's first output where it is features: an image, a sequence or pooled; "" where a head is there."""
    main = anatomy.graph.main
    kind = main.output_types[0]
    fixed = kind.rank >= 2 and isinstance(kind.shape[1 if kind.rank == 4 else -1], int)
    if head_of(anatomy) is not None or kind.rank not in (2, 3, 4) or not fixed or kind.dtype.is_integer:
        return ""
    node = main.by_name.get(producer(main.outputs[0]))
    return "" if node is None or (node.op == "Linear" and kind.rank == 3) else main.outputs[0]


def add_head(writer: ScriptWriter, value: str, rank: int, classes: int) -> None:
    """Mean over positions, then a Linear, in the place of the first output."""
    writer.at()
    if rank == 4:
        value = writer.add("GlobalAveragePool", value, keepdims=False)
    elif rank == 3:
        value = writer.add("ReduceMean", value, axes=Number.of(1))
    writer.rewire("", 0, writer.add("Linear", value, out_features=Number.of(classes)))


def _propose_head(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    value = _features(anatomy)
    if not value:
        return None
    count = usual(rng, CLASSES, 2, 1200)
    rank = anatomy.graph.main.output_types[0].rank
    request = Request(intent="add_classifier", values=(("classes", count),))
    return Draft(
        request=request,
        slots={"classes": _class_words(count)},
        build=lambda writer: add_head(writer, value, rank, count),
    )


_HEAD = "(classification head|classifier|classifier head|linear classifier)"
ADD_CLASSIFIER = Intent(
    name="add_classifier",
    reading="insert",
    seen=(
        "add a " + _HEAD + " (with|for) {classes}",
        "(put|place|attach) a " + _HEAD + " (with|for) {classes} (on top|at the end|on the output)",
        "(append|attach) a " + _HEAD + " (with|for) {classes}",
        "~" + _HEAD + " (with|for) {classes} on top",
        "(extend|complete) the (model|network) (by|with) a " + _HEAD + " (with|for) {classes}",
        "give the (model|network|backbone) a " + _HEAD + " (with|for) {classes}",
        "~I need a " + _HEAD + " (with|for) {classes} on top (of it|of the features)",
        "stack a " + _HEAD + " (with|for) {classes} on the (features|backbone|output)",
        "(end|finish) the (model|network) (in|with) a " + _HEAD + " (with|for) {classes}",
        "pool the (features|output) and classify into {classes}",
        "classify the pooled (features|output) into {classes}",
        "(turn|make) the (backbone|model|network) into a classifier (of|with|for) {classes}",
        "~(could|can) you add a " + _HEAD + " (with|for) {classes}?",
        "add a pooling and a linear layer (with|for) {classes} (at the end|on top)",
        "add global pooling and a linear layer (with|for) {classes}",
        "~new " + _HEAD + ": {classes}",
        "~missing: a " + _HEAD + " (with|for) {classes}",
        "follow the (model|backbone|features) (by|with) a " + _HEAD + " (with|for) {classes}",
        "insert a " + _HEAD + " (with|for) {classes} after the last layer",
        "put a linear layer for {classes} on the (pooled|averaged) (features|output)",
        "build a " + _HEAD + " (with|for) {classes} on top of the (model|backbone)",
    ),
    unseen=(
        "top the (model|backbone) off with a classifier over {classes}",
        "crown the network with a head for {classes}",
        "~the features should be averaged and classified into {classes}",
        "let the backbone end in a decision between {classes}",
        "hang a head for {classes} onto it",
    ),
    propose=_propose_head,
    weight=0.6,
)

CLASSIFIER = (NUM_CLASSES, ADD_CLASSIFIER)
