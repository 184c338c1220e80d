"""Modules of the user: `package.module:function`."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from genmad.importers.from_torch import from_torch
from genmad.importers.report import Imported, SourceError
from genmad.ir.diagnostics import Diagnostic, GenmadError


def from_function(source: str, inputs: list[str] | tuple[str, ...], weights: bool) -> Imported:
    module = _call(source)
    if not inputs and hasattr(module, "main_input_name") and hasattr(module, "config"):
        from genmad.importers.from_hf import import_model

        imported = import_model(module, source=source)
    else:
        examples = parse_inputs(inputs) or _own_examples(module, source)
        _check_names(examples, module, source)
        imported = from_torch(module, examples, dynamic=_dynamic(examples), name=_identifier(source), source=source)
    return replace(imported, report=replace(imported.report, weights="loaded" if weights else "none"))


def _dynamic(examples: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    """Axis 0 is the batch, and axis 1 of integer matrices (token ids) the sequence."""
    return {
        name: {0: "batch", 1: "seq"} if t.dtype == torch.int64 and t.dim() == 2 else {0: "batch"}
        for name, t in examples.items()
        if t.dim() > 0
    }


def _identifier(source: str) -> str:
    return re.sub(r"\W", "_", source.rsplit(":", 1)[-1])


def _call(source: str) -> nn.Module:
    where, _, attribute = source.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made: Any = importlib.import_module(where)
        for part in attribute.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError) as error:
        fix = "install the package or call genmad from the folder that holds it"
        fix = fix if isinstance(error, ImportError) else f"name something that {where} has"
        raise SourceError(
            Diagnostic(where=source, got=str(error), expected="package.module:function", fix=fix)
        ) from error
    except Exception as error:  # the user's module may raise anything when it is imported
        got = f"{type(error).__name__} when {where} is imported: {error}"
        fix = f"python -c 'import {where}' shows it"
        raise SourceError(
            Diagnostic(where=source, got=got, expected="a module that can be imported", fix=fix)
        ) from error
    if not isinstance(made, nn.Module):
        try:
            made = made()
        except GenmadError:
            raise
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
            expected, fix = "a function that gives a torch.nn.Module when called without arguments", "wrap it in one"
            raise SourceError(Diagnostic(where=source, got=got, expected=expected, fix=fix)) from error
    if not isinstance(made, nn.Module):
        fix = "name a function or class that gives one"
        got = f"{type(made).__name__} as its result"
        raise SourceError(Diagnostic(where=source, got=got, expected="a torch.nn.Module", fix=fix))
    return made


def parse_inputs(texts: list[str] | tuple[str, ...]) -> dict[str, Tensor]:
    """`name=1x3x224x224:float32` (the dtype may be left out) to meta tensors. Raises `SourceError`."""
    found = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)=(\d+(?:x\d+)*)(?::(\w+))?", text.strip())
        dtype = getattr(torch, (match[3] or "float32") if match else "", None)
        if match is None or not isinstance(dtype, torch.dtype):
            got, fix = "a malformed input", "for example --input ids=1x16:int64"
            raise SourceError(
                Diagnostic(where=f"input {text!r}", got=got, expected="name=1x3x224x224:float32", fix=fix)
            )
        found[match[1]] = torch.empty([int(size) for size in match[2].split("x")], dtype=dtype, device="meta")
    return found


def _check_names(examples: Mapping[str, Tensor], module: nn.Module, source: str) -> None:
    """Raises `SourceError` when an input is no argument of forward, or when a needed one is missing."""
    arguments = inspect.signature(module.forward).parameters
    if any(a.kind is a.VAR_KEYWORD for a in arguments.values()):
        return
    names = [name for name, a in arguments.items() if a.kind is not a.VAR_POSITIONAL]
    needed = [name for name in names if arguments[name].default is arguments[name].empty]
    if all(name in names for name in examples) and all(name in examples for name in needed):
        return
    fix = " ".join(f"--input {name}=1x3x224x224:float32" for name in needed or names[:1])
    raise SourceError(Diagnostic(
        where=source, got=f"inputs {', '.join(examples)}",
        expected=f"inputs of its forward: {', '.join(names)}", fix=f"for example {fix}",
    ))  # fmt: skip


def _own_examples(module: nn.Module, source: str) -> dict[str, Tensor]:
    names = list(inspect.signature(module.forward).parameters)
    for attribute in ("dummy_inputs", "example_input_array"):
        given = getattr(module, attribute, None)
        if isinstance(given, Mapping):
            return {key: value for key, value in given.items() if isinstance(value, Tensor)}
        if isinstance(given, Tensor):
            return {names[0]: given}
        if isinstance(given, (tuple, list)):
            return dict(zip(names, given, strict=False))
    raise SourceError(Diagnostic(
        where=source, got="a module without example inputs", expected="the shape of each input",
        fix=f"pass --input {names[0] if names else 'x'}=1x3x224x224:float32",
    ))  # fmt: skip
