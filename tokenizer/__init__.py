"""Graphs as tokens and back, without loss, and the grammar of what may come next."""

if __name__ != "genmad.tokenizer":
    raise ImportError(f"this folder is the package genmad.tokenizer, got {__name__!r}: write 'import genmad.tokenizer'")

from genmad.tokenizer.features import GraphReader, GraphTokens, TokenRef
from genmad.tokenizer.grammar import GrammarError, GrammarState, Mask, ScriptGrammar, SourceGrammar, Token
from genmad.tokenizer.script_codec import encode_script
from genmad.tokenizer.text import PromptTokenizer, PromptTokens
from genmad.tokenizer.vocab import Vocab

__all__ = [
    "GrammarError",
    "GrammarState",
    "GraphReader",
    "GraphTokens",
    "Mask",
    "PromptTokenizer",
    "PromptTokens",
    "ScriptGrammar",
    "SourceGrammar",
    "Token",
    "TokenRef",
    "Vocab",
    "encode_script",
]
