"""The second way in: `torch.export` instead of the eager tracer, on the same functional table.

Slower (seconds where the eager tracer takes tenths), and attention masks arrive as they are computed, but it survives
code that the eager tracer does not see through. It is also what the eager tracer is compared with in the tests.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.emit import Emitter, Handler
from genmad.importers.functional import FUNCTIONAL
from genmad.importers.meta import on_meta
from genmad.importers.report import UnsupportedError
from genmad.importers.trace import ModuleCall, Record, Ref, Trace, TracedValue, map_tensors, tensors_in

_SAME = {"alias", "clone", "contiguous", "detach", "detach_", "dropout", "feature_dropout", "lift_fresh",
         "lift_fresh_copy", "_to_copy_same", "dropout_"}  # fmt: skip
_NO_RESULT = {"_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size"}


def export_trace(module: nn.Module, inputs: Mapping[str, Tensor], call_kwargs: Mapping[str, Any]) -> Trace:
    """One `torch.export` of the module on the meta device as a trace. Raises `UnsupportedError`."""
    with on_meta(module) as known, torch.no_grad():
        named = {id(t): key for key, t in (*_tensors(module, "parameters"), *_tensors(module, "buffers"))}
        roles = {named[i]: role for i, role in known.items() if i in named}
        try:
            program = torch.export.export(module, (), {**inputs, **call_kwargs}, strict=False)
        except Exception as error:  # torch.export raises of every kind
            raise UnsupportedError([f"torch.export: {type(error).__name__}: {str(error).splitlines()[0]}"]) from error
    return _Reader(program, roles, inputs).run()


def _tensors(module: nn.Module, kind: str) -> list[tuple[str, Tensor]]:
    return list(getattr(module, f"named_{kind}")(remove_duplicate=False))


class _Reader:
    def __init__(
        self, program: Any, roles: Mapping[str, tuple[str, str, Tensor | None]], inputs: Mapping[str, Tensor]
    ) -> None:
        self.program, self.roles, self.inputs = program, roles, inputs
        self.trace = Trace(calls=[ModuleCall(0, -1, "", "")])
        self.numbers: dict[Any, Any] = {}
        self.calls: dict[tuple[str, ...], int] = {(): 0}

    def run(self) -> Trace:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._call(node)
        self.trace.outputs = self._outputs()
        return self.trace

    def _bind(self, value: Any, kind: str, name: str = "", real: Tensor | None = None) -> int:
        self.trace.values.append(
            TracedValue(shape=tuple(value.shape), dtype=value.dtype, kind=kind, name=name, real=real)
        )
        return len(self.trace.values) - 1

    def _placeholder(self, node: Any) -> None:
        signature = self.program.graph_signature
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return
        tables = (signature.inputs_to_parameters, signature.inputs_to_buffers)
        target = next((table[node.name] for table in tables if node.name in table), None)
        if target is not None:
            kind, name, real = self.roles.get(target, ("parameter", target, None))
            self.numbers[node] = self._bind(value, kind, name, real)
            return
        constant = signature.inputs_to_lifted_tensor_constants.get(node.name)
        if constant is not None:
            self.numbers[node] = self._bind(value, "constant", "", self.program.constants[constant])
            return
        self.numbers[node] = self._bind(value, "input", node.name)

    def _call(self, node: Any) -> None:
        if node.target is operator.getitem and isinstance(self.numbers.get(node.args[0]), tuple):
            self.numbers[node] = self.numbers[node.args[0]][node.args[1]]
            return
        name = getattr(node.target, "_opname", None) or getattr(node.target, "__name__", str(node.target))
        name = str(name).split("::")[-1]
        if name in _NO_RESULT:
            return
        if name in _SAME:
            self.numbers[node] = self.numbers[node.args[0]]
            return
        args, kwargs = self._refs(node.args), self._refs(dict(node.kwargs))
        values = tensors_in(node.meta.get("val"))
        constant = all(self.trace.values[r.number].kind == "constant" for r in tensors_in((args, kwargs), Ref))
        outputs = tuple(self._bind(v, "constant" if constant else "computed") for v in values)
        self.numbers[node] = outputs[0] if isinstance(node.meta.get("val"), Tensor) else outputs
        self.trace.records.append(
            Record(target=name, path=f"torch.{name}", func=node.target, args=args, kwargs=kwargs, outputs=outputs,
                   call=self._scope(node), is_constant=constant)
        )  # fmt: skip

    def _refs(self, tree: Any) -> Any:
        def ref(item: Any) -> Any:
            number = self.numbers.get(item)
            if number is None:
                raise UnsupportedError([f"torch.export: {item} is no tensor"])
            return Ref(number)

        return map_tensors(_plain(tree), ref, torch.fx.Node)

    def _scope(self, node: Any) -> int:
        """The module call of a node; calls are told apart by torch's numbering (`layer@1`)."""
        chain: tuple[str, ...] = ()
        stack = node.meta.get("nn_module_stack") or {}
        for path, kind in list(stack.values())[1:]:
            plain = str(path).split("@")[0].removeprefix("L['self'].")
            parent = self.calls[chain]
            chain = (*chain, str(path))
            if chain not in self.calls:
                self.calls[chain] = len(self.trace.calls)
                class_name = (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
                self.trace.calls.append(ModuleCall(self.calls[chain], parent, plain, class_name))
        return self.calls[chain]

    def _outputs(self) -> list[tuple[str, int]]:
        from torch.utils._pytree import tree_unflatten

        from genmad.importers.from_torch import main_outputs

        (node,) = (n for n in self.program.graph.nodes if n.op == "output")
        leaves = [torch.empty(0) if isinstance(item, torch.fx.Node) else item for item in node.args[0]]
        numbers = {
            id(leaf): self.numbers[item]
            for leaf, item in zip(leaves, node.args[0], strict=True)
            if item in self.numbers
        }
        result = tree_unflatten(leaves, self.program.call_spec.out_spec)
        return [(name, numbers[id(tensor)]) for name, tensor in main_outputs(result)]


def _plain(tree: Any) -> Any:
    """fx's immutable lists and dicts as ordinary ones."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return tuple(_plain(item) for item in tree)
    return tree


# Aten's argument orders where they are not those of torch.nn.functional.


def _softmax(name: str) -> Handler:
    def handler(e: Emitter, input: Any, dim: int, dtype: Any = None) -> Any:
        return FUNCTIONAL[name](e, input, dim, dtype=dtype)

    return handler


def _embedding(e: Emitter, weight: Any, indices: Any, *_: Any) -> Any:
    return FUNCTIONAL["embedding"](e, indices, weight)


def _layer_norm(
    e: Emitter, input: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    return FUNCTIONAL["layer_norm"](e, input, shape, weight, bias, eps)


def _group_norm(
    e: Emitter, input: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    return FUNCTIONAL["group_norm"](e, input, groups, weight, bias, eps)


def _batch_norm(
    e: Emitter,
    input: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Any:
    return FUNCTIONAL["batch_norm"](e, input, mean, var, weight, bias, training, momentum, eps)


def _slice(e: Emitter, input: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    rank = e.type_of(input).rank
    index = (*(slice(None),) * (dim % rank), slice(start, end, step))
    return FUNCTIONAL["__getitem__"](e, input, index)


def _to(e: Emitter, input: Any, *_: Any, **__: Any) -> Any:
    return FUNCTIONAL["cast"](e, input, str(e.want[0].dtype))


def _resize(mode: str) -> Handler:
    def handler(e: Emitter, input: Any, size: Any, *rest: Any) -> Any:
        corners = bool(rest[0]) if mode != "nearest" and rest else False
        return FUNCTIONAL["interpolate"](e, input, size or e.want[0].shape[2:], None, mode, corners)

    return handler


def _index(e: Emitter, input: Any, indices: Sequence[Any]) -> Any:
    return FUNCTIONAL["__getitem__"](e, input, tuple(slice(None) if i is None else i for i in indices))


ATEN: Mapping[str, Handler] = {
    **FUNCTIONAL, "softmax": _softmax("softmax"), "log_softmax": _softmax("log_softmax"), "embedding": _embedding,
    "layer_norm": _layer_norm, "group_norm": _group_norm, "batch_norm": _batch_norm, "slice": _slice, "to": _to,
    "_to_copy": _to, "type_as": _to, "upsample_nearest2d": _resize("nearest"),
    "upsample_bilinear2d": _resize("bilinear"), "upsample_bicubic2d": _resize("bicubic"), "index": _index,
    "silu_": FUNCTIONAL["silu"], "relu_": FUNCTIONAL["relu"], "hardtanh_": FUNCTIONAL["hardtanh"],
    "hardswish_": FUNCTIONAL["hardswish"], "add_": FUNCTIONAL["add"], "mul_": FUNCTIONAL["mul"],
    "numpy_T": FUNCTIONAL["T"], "permute_copy": FUNCTIONAL["permute"],
}  # fmt: skip
