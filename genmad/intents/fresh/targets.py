"""Fresh words for the layers that a sentence is about; fields as in `wordings.targets`."""

from collections.abc import Mapping

TARGETS: Mapping[str, tuple[str, ...]] = {
    "last": (
        "the {one} nothing else comes after{of}",
        "whichever {one} comes last{of}",
        "the tail-end {one}{of}",
        "the {one} with the highest index{of}",
        "the {one} at the very end of the stack{of}",
    ),
    "first": (
        "the {one} nothing else comes before{of}",
        "whichever {one} comes first{of}",
        "the {one} that kicks things off{of}",
        "the {one} with the lowest index{of}",
        "the {one} at the very start of the stack{of}",
    ),
    "index": (
        "the {one} stored under index {i}{of}",
        "the {one} whose zero-based index is {i}{of}",
        "{one} at idx {i}{of}",
        "the {one} we call number {i}{of}",
    ),
    "ordinal": (
        "the {one} whose turn comes {word}{of}",
        "the {word} {one} when counting from one{of}",
        "the {word}-in-line {one}{of}",
        "the {word} {one} you meet on the forward pass{of}",
    ),
    "from_end": (
        "the {one} that is {word} to last{of}",
        "the {one} coming {word} in reverse order{of}",
        "the {word} {one} when counting backwards from the output{of}",
        "the {word}-to-final {one}{of}",
    ),
    "name": (
        "whatever lives at {path}",
        "the thing registered as {path}",
        "what you find under {path}",
        "the part that goes by {path}",
    ),
    "every_other": (
        "each second {one}{of}, beginning with the first",
        "one {one} in two{of}, beginning with the first",
        "the {many} at even offsets{of}",
        "alternating {many}{of}, the first one included",
    ),
    "odd": (
        "the odd-indexed half of the {many}{of}",
        "each second {one}{of}, beginning at index one",
        "the {many} at odd offsets{of}",
        "alternating {many}{of}, the first one left out",
    ),
    "range": (
        "the {many} from index {i} up to and including {j}{of}",
        "{one} {i}, {one} {j} and what lies between them{of}",
        "everything from {one} {i} up to {one} {j}{of}",
        "the run of {many} {i} to {j}{of}",
    ),
    "list": (
        "{many} {head}, and besides them {last}{of}",
        "the {many} with indices {head} plus {last}{of}",
        "just these {many}{of}: {head}, {last}",
        "{one} {head} and also {one} {last}{of}",
    ),
    "last_n": (
        "the {word} {many} that see the data latest{of}",
        "the {word} {many} after which nothing comes{of}",
        "the {word} {many} wrapping things up{of}",
        "the {word} {many} at the far end{of}",
    ),
    "first_n": (
        "the {word} {many} that see the data earliest{of}",
        "the initial run of {word} {many}{of}",
        "the {word} {many} you pass before any other{of}",
        "the {word} {many} at the near end{of}",
    ),
    "half_first": (
        "the shallow half of the {many}{of}",
        "the {many} in the first half of the stack{of}",
        "the half of the {many} nearer to the input{of}",
        "the earlier 50% of the {many}{of}",
    ),
    "half_second": (
        "the deep half of the {many}{of}",
        "the {many} in the second half of the stack{of}",
        "the half of the {many} nearer to the output{of}",
        "the later 50% of the {many}{of}",
    ),
    "all": (
        "the {many}{of}, one and all",
        "every {one}{of}, no exceptions",
        "all the {many} there are{of}",
        "the {many}{of}, without leaving any out",
    ),
    "side": (
        "everything on the {side} side",
        "the {side} from top to bottom",
        "the {side} in its entirety",
        "whatever belongs to the {side}",
    ),
    "stage": (
        "everything inside {name}",
        "{name} in its entirety",
        "each {one} that belongs to {name}",
        "{name} with all that is in it",
    ),
}

EVERY_LAYER = ("the layers one and all", "every layer, no exceptions")
WHOLE_MODEL = ("the model from end to end", "all parts of the network")
SAME_LAYER = ("the layer just mentioned", "the aforementioned layer")
SAME_LAYERS = ("the layers just mentioned", "the aforementioned layers")
