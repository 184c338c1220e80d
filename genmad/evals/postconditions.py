"""Was a request met? One post-condition per intent, on the graph before and the graph after; no script is looked at.

The conditions are written from what a request means, apart from the programmatic edits of the corpus.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from genmad.evals import post_attention as attention
from genmad.evals import post_branches as branches
from genmad.evals import post_budgets as budgets
from genmad.evals import post_classifier as classifier
from genmad.evals import post_conv as conv
from genmad.evals import post_conv_attributes as conv_attributes
from genmad.evals import post_conv_layers as conv_layers
from genmad.evals import post_inserts as inserts
from genmad.evals import post_layers as layers
from genmad.evals import post_linear as linear
from genmad.evals import post_norm_removal as norm_removal
from genmad.evals import post_pooling as pooling
from genmad.evals import post_primitives as primitives
from genmad.evals import post_repair as repair
from genmad.evals import post_scaling as scaling
from genmad.evals import post_settings as settings
from genmad.evals import post_style as style
from genmad.evals import post_sublayers as sublayers
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
    "dilation": PostCondition(conv_attributes.check_dilation, conv_attributes.scope_dilation),
    "conv_groups": PostCondition(conv_attributes.check_groups, conv_attributes.scope_groups),
    "conv_stride": PostCondition(conv_attributes.check_stride, conv_attributes.scope_stride),
    "toggle_bias": PostCondition(conv_attributes.check_bias, conv_attributes.scope_bias),
    "complete": PostCondition(repair.check_complete, repair.scope_complete),
    "budget": PostCondition(budgets.check_budget, budgets.scope_budget),
    "num_classes": PostCondition(classifier.check_num_classes, classifier.scope_num_classes),
    "add_classifier": PostCondition(classifier.check_add_classifier, classifier.scope_add_classifier),
    "insert_conv": PostCondition(conv_layers.check_insert_conv, conv_layers.scope_units),
    "conv_attention": PostCondition(conv_layers.check_conv_attention, conv_layers.scope_units),
    "remove_squeeze_excite": PostCondition(conv_layers.check_remove_gate, conv_layers.scope_remove_gate),
    "se_ratio": PostCondition(conv_layers.check_ratio, conv_layers.scope_ratio),
    "upsampling_mode": PostCondition(conv_layers.check_mode, conv_layers.scope_mode),
    "remove_norm": PostCondition(norm_removal.check_remove_norm, norm_removal.scope_remove_norm),
    "remove_activation": PostCondition(norm_removal.check_remove_activation, norm_removal.scope_remove_activation),
    "norm_groups": PostCondition(norm_removal.check_norm_groups, norm_removal.scope_norm_groups),
    "conv_width": PostCondition(pooling.check_conv_width, pooling.scope_conv_width),
    "swap_pooling": PostCondition(pooling.check_swap_pooling, pooling.scope_swap_pooling),
    "remove_pooling": PostCondition(pooling.check_remove_pooling, pooling.scope_remove_pooling),
    "pool_size": PostCondition(pooling.check_pool_size, pooling.scope_pool_size),
    "token_mixer": PostCondition(pooling.check_token_mixer, pooling.scope_token_mixer),
    "sg_conv": PostCondition(primitives.check_convolution, attention.scope_long_conv),
    "sg_conv3": PostCondition(primitives.check_convolution, attention.scope_long_conv),
    "separable_conv": PostCondition(primitives.check_convolution, attention.scope_long_conv),
    "lsh_attention": PostCondition(primitives.check_lsh, attention.scope_long_conv),
    "mixed_heads": PostCondition(primitives.check_same_operands, primitives.scope_same_operands),
    "hierarchical_convert": PostCondition(primitives.check_same_operands, primitives.scope_same_operands),
    "hierarchical_branch": PostCondition(primitives.check_hierarchical_branch, attention.scope_units),
    "gated_mlp": PostCondition(style.check_gated, style.scope_gated),
    "model_style": PostCondition(style.check_style, style.scope_style),
    "parallel_block": PostCondition(sublayers.check_parallel, sublayers.scope_parallel),
    "sandwich_norm": PostCondition(sublayers.check_sandwich, sublayers.scope_units),
    "qk_norm": PostCondition(sublayers.check_qk_norm, sublayers.scope_units),
    "attention_gate": PostCondition(sublayers.check_attention_gate, sublayers.scope_units),
    "remove_rope": PostCondition(sublayers.check_no_rope, sublayers.scope_no_rope),
    "reduce_depth": PostCondition(scaling.check_reduce, scaling.scope_reduce),
    "grow_depth": PostCondition(scaling.check_grow, scaling.scope_grow),
    "vocab_size": PostCondition(scaling.check_vocabulary, scaling.scope_vocabulary),
    "context_length": PostCondition(scaling.check_context, scaling.scope_context),
    "make_causal": PostCondition(settings.check_direction, settings.scope_attention),
    "make_bidirectional": PostCondition(settings.check_direction, settings.scope_attention),
    "attention_scale": PostCondition(settings.check_scale, settings.scope_attention),
    "norm_eps": PostCondition(settings.check_eps, settings.scope_eps),
    "rope_scaling": PostCondition(settings.check_rope_scaling, settings.scope_rope_scaling),
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
    """The requests in a sentence: the two or three of `both`, else the one."""
    return tuple(dict(request.values)["parts"]) if request.intent == "both" else (request,)
