"""Requests about what exists only while training: a graph of inference has no place for it, so they are refused."""

import random

from genmad.intents.anatomy import Anatomy
from genmad.intents.draft import Draft, Intent, refusal_draft
from genmad.intents.phrasing import Phrases, say
from genmad.intents.targets import pick_target

_RATES = ("0.1", "0.2", "0.3", "0.5", "0.05", "10%", "20 %", "p=0.1", "rate 0.1", "rate 0.2", "probability 0.3")
_WHAT = say(
    "dropout", "drop out", "stochastic depth", "drop path", "droppath", "Dropout", "attention dropout",
    "label smoothing",    "weight decay", "gradient checkpointing", "data augmentation", "mixup",
    unseen=("random deactivation of units", "layer drop", "gradient clipping"),
)  # fmt: skip


def _propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    slots = {"what": _WHAT}
    target = pick_target(anatomy, rng) if rng.random() < 0.7 else None
    if target is not None:
        slots["target"] = target.phrases
    if rng.random() < 0.5:
        slots["rate"] = Phrases(_RATES, ("a rate of 0.15", "one in ten"))
    return refusal_draft("training_only", "not_applicable", slots, exact=bool(target and target.exact))


TRAINING_ONLY = Intent(
    name="training_only",
    reading="insert",
    seen=(
        "add {what}[ (to|in|after) {target}][ with {rate}]",
        "(use|apply) {what}[ in {target}][ with {rate}]",
        "(insert|put) {what}[ (into|in|after|behind) {target}][ <{rate}>]",
        "~{what}[ (in|for|after) {target}][ {rate}]",
        "~{target}: {what}[ {rate}]",
        "regularize[ {target}] (by|with) {what}[ {rate}]",
        "set {what}[ (of|in) {target}][ to {rate}]",
        "(increase|raise) {what}[ (of|in) {target}][ to {rate}]",
        "(remove|disable|reduce) {what}[ (of|in|from) {target}][ to {rate}]",
        "train[ {target}] with {what}[, {rate}]",
        "turn on {what}[ (for|in) {target}][ with {rate}]",
        "give {target} {what}[ with {rate}]",
        "~I (want|need) {what}[ in {target}][ with {rate}]",
        "~(could|can) you add {what}[ (to|in) {target}][ with {rate}]?",
        "let {target} have {what}[ with {rate}]",
        "introduce {what}[ (in|after) {target}][ with {rate}]",
        "(change|switch) {what}[ (of|in) {target}][ to {rate}]",
        "~there should be {what}[ (in|after) {target}][ with {rate}]",
        "protect[ {target}] against overfitting with {what}[, {rate}]",
        "equip {target} with {what}[, {rate}]",
    ),
    unseen=(
        "sprinkle {what}[ over {target}][, {rate}]",
        "fit {what}[ into {target}][, {rate}]",
        "~{what}[ in {target}] would be good[, {rate}]",
        "make[ {target}] more robust by {what}[, {rate}]",
        "go for {what}[ in {target}][, {rate}]",
    ),
    propose=_propose,
    refuse=(_propose,),
    weight=0.12,
    combines=False,
)
