"""The checkpoint that ships does the job that the README promises, on the real GPT-2 architecture."""

from functools import cache

import pytest

from genmad.evals.postconditions import judge
from genmad.importers.from_hf import load_source
from genmad.intents.types import Request
from genmad.ir import Graph
from genmad.ops import OPSET
from genmad.sampling import Editor
from genmad.sampling.pretrained import shipped_folder

MOST_BYTES = 16 * 1024 * 1024
LAYERS = tuple(f"transformer.h.{i}" for i in range(12))


@cache
def gpt2() -> Graph:
    return load_source("gpt2", weights=False).graph


@cache
def editor() -> Editor:
    return Editor.from_pretrained()


def test_the_checkpoint_is_small_and_holds_no_pickle() -> None:
    files = list(shipped_folder().iterdir())
    assert sum(f.stat().st_size for f in files) <= MOST_BYTES
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".model", ".txt"}


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        (
            "add local attention to the last layer",
            Request(intent="local_attention_branch", layers=LAYERS[-1:], values=(("window", None),)),
        ),
        (
            "use a sliding window of 256 in layers 3 to 6 instead of full attention",
            Request(intent="local_attention_convert", layers=LAYERS[3:7], values=(("window", 256),)),
        ),
    ],
)
def test_a_sentence_edits_gpt2_as_its_postcondition_says(prompt: str, request_: Request) -> None:
    proposal = editor().edit(gpt2(), prompt)[0]
    assert proposal.status == "ok", proposal
    assert proposal.state is not None
    verdict = judge(request_, gpt2(), proposal.state.graph, OPSET)
    assert verdict.success, verdict.reasons
    assert verdict.untouched


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("use 7 heads", "not_divisible"), ("add lora to q_proj", "no_such_target")],
)
def test_what_cannot_be_is_refused(prompt: str, reason: str) -> None:
    proposal = editor().edit(gpt2(), prompt)[0]
    assert (proposal.status, proposal.reason) == ("refused", reason)


def test_the_other_reading_can_be_forced() -> None:
    proposal = editor().edit(gpt2(), "add local attention to the last layer", reading="convert")[0]
    assert proposal.status == "ok"
    assert proposal.state is not None
    request = Request(intent="local_attention_convert", layers=LAYERS[-1:], values=(("window", None),))
    assert judge(request, gpt2(), proposal.state.graph, OPSET).success


def test_a_place_given_by_option_is_where_the_edit_goes() -> None:
    """The bug this guards: with --at, the model looked everywhere and the grammar then left it no step."""
    proposal = editor().edit(gpt2(), "add lora of rank 4", at="transformer.h.3.attn.c_attn")[0]
    assert proposal.status == "ok", proposal
    assert proposal.state is not None
    node = "transformer.h.3.attn.c_attn"
    request = Request(intent="lora", layers=LAYERS[3:4], nodes=(node,), values=(("rank", 4), ("alpha", None)))
    assert judge(request, gpt2(), proposal.state.graph, OPSET).success
