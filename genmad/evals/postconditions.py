"""Was a request met? One post-condition per intent, on the graph before and the graph after; no script is looked at.

The conditions are written from what a request means, apart from the programmatic edits of the corpus.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from genmad.evals import post_attention as attention
from genmad.evals import post_branches as branches
from genmad.evals import post_conv as conv
from genmad.evals import post_inserts as inserts
from genmad.evals import post_layers as layers
from genmad.evals import post_linear as linear
from genmad.evals.case import Case, Excess
from genmad.evals.untouched import Scope, touched
from genmad.intents.types import Request
from genmad.ir.build import OpSet, retype
from genmad.ir.diagnostics import GenmadError
from genmad.ir.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What became of a request.

    Attributes:
        success: the post-condition holds and nothing else changed.
        untouched: everything outside the request is as it was.
        reasons: what is wrong, in words; empty on success.
    """

    success: bool
    untouched: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PostCondition:
    """What an intent asks of the result.

    Attributes:
        problems: what is wrong with the result, in words.
        scope: what the request gives leave to change.
    """

    problems: Callable[[Case], Iterator[str]]
    scope: Callable[[Case], Scope]


POSTCONDITIONS: Mapping[str, PostCondition] = {
    "local_attention_branch": PostCondition(attention.check_branch, attention.scope_units),
    "local_attention_convert": PostCondition(attention.check_window, attention.scope_attention),
    "global_attention": PostCondition(attention.check_global, attention.scope_attention),
    "attention_softcap": PostCondition(attention.check_softcap, attention.scope_attention),
    "num_heads": PostCondition(attention.check_num_heads, attention.scope_heads),
    "kv_heads": PostCondition(attention.check_kv_heads, attention.scope_kv_heads),
    "gqa_to_mqa": PostCondition(attention.check_kv_heads, attention.scope_kv_heads),
    "long_conv": PostCondition(attention.check_long_conv, attention.scope_long_conv),
    "conv_branch": PostCondition(attention.check_conv_branch, attention.scope_units),
    "remove_layer": PostCondition(layers.check_remove, layers.scope_remove),
    "duplicate_layer": PostCondition(layers.check_duplicate, layers.scope_new_calls),
    "insert_layer": PostCondition(layers.check_insert, layers.scope_new_calls),
    "skip_connection": PostCondition(branches.check_skip, branches.scope_skip),
    "remove_module": PostCondition(branches.check_remove_module, branches.scope_remove_module),
    "lora": PostCondition(linear.check_lora, linear.scope_lora),
    "change_activation": PostCondition(linear.check_activation, linear.scope_activation),
    "swap_norm": PostCondition(linear.check_swap_norm, linear.scope_swap_norm),
    "resize_mlp": PostCondition(linear.check_mlp, linear.scope_mlp),
    "adapter": PostCondition(inserts.check_adapter, inserts.scope_units),
    "insert_norm": PostCondition(inserts.check_insert_norm, inserts.scope_units),
    "layer_scale": PostCondition(inserts.check_layer_scale, inserts.scope_units),
    "squeeze_excite": PostCondition(conv.check_squeeze_excite, conv.scope_squeeze_excite),
    "kernel_size": PostCondition(conv.check_kernel_size, conv.scope_kernel_size),
    "depthwise_separable": PostCondition(conv.check_depthwise, conv.scope_depthwise),
}


def judge(request: Request, before: Graph, after: Graph, opset: OpSet) -> Judgement:
    """Whether `after` is what `request` asks of `before`, and whether all else stayed.

    Raises:
        KeyError: for an intent that has no post-condition.
        ValueError: when the request names a place that `before` does not have.
    """
    if request.refusal:
        return Judgement(success=False, untouched=before == after, reasons=(f"should be refused: {request.refusal}",))
    parts = _parts(request)
    conditions = [POSTCONDITIONS[part.intent] for part in parts]
    cases = _cases(parts, conditions, Case.of(request, before, after))
    found = [problem for case, condition in zip(cases, conditions, strict=True) for problem in condition.problems(case)]
    reasons = [str(problem) for problem in found if len(parts) == 1 or not isinstance(problem, Excess)]
    scopes = [condition.scope(case) for case, condition in zip(cases, conditions, strict=True)]
    strays = touched(before, after, reduce(Scope.join, scopes))
    try:
        retype(after, opset)
    except GenmadError as error:
        reasons.append(f"the result is not well typed: {error}")
    return Judgement(success=not reasons and not strays, untouched=not strays, reasons=(*reasons, *strays))


def _cases(parts: Sequence[Request], conditions: Sequence[PostCondition], whole: Case) -> list[Case]:
    """A case for each request of the sentence, with what the others have taken out waived."""
    cases = [replace(whole, request=part, joint=len(parts) > 1) for part in parts]
    gone = whole.before.nodes.keys() - whole.after.nodes.keys()
    out = []
    for case in cases:
        others = [c.scope(o) for c, o in zip(conditions, cases, strict=True) if o is not case]
        out.append(replace(case, waived=frozenset(key for key in gone if any(s.may_leave(key) for s in others))))
    return out


def _parts(request: Request) -> tuple[Request, ...]:
    """The requests in a sentence: the two of `both`, else the one."""
    return tuple(dict(request.values)["parts"]) if request.intent == "both" else (request,)
