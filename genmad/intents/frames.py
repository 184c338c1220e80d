"""Sentence frames that fit many requests: setting a number, taking something out, putting something in.

Each gives templates (see `phrasing`) for a noun, those for training and those that are held out.
"""

Frames = tuple[tuple[str, ...], tuple[str, ...]]


def setting_frames(noun: str, value: str) -> Frames:
    """Templates that set `noun` (without an article, such as `dilation rate`) to `value` (such as `{dilation}`)."""
    seen = (
        f"set the {noun}[ (of|in) {{target}}] to {value}",
        f"(change|adjust|modify) the {noun}[ (of|in|for) {{target}}] to {value}",
        f"use a {noun} of {value}[ (in|for) {{target}}]",
        f"~{noun} {value}[ (in|for) {{target}}]",
        f"~{{target}}: {noun} {value}",
        f"make the {noun}[ (of|in) {{target}}] {value}",
        f"(switch|go|move) to a {noun} of {value}[ (in|for) {{target}}]",
        f"let {{target}} (use|have|work with) a {noun} of {value}",
        f"~I (want|need|would like) a {noun} of {value}[ in {{target}}]",
        f"give {{target}} a {noun} of {value}",
        f"~the {noun}[ (of|in) {{target}}] (should|must) be {value}",
        f"bring the {noun}[ (of|in) {{target}}] to {value}",
        f"configure {{target}} with a {noun} of {value}",
        f"~(could|can) you (make|set) the {noun}[ (of|in) {{target}}] (|to ){value}?",
        f"(run|equip|build) {{target}} with a {noun} of {value}",
        f"have a {noun} of {value}[ in {{target}}]",
    )
    unseen = (
        f"pick {value} as the {noun}[ (of|in) {{target}}]",
        f"~we'd like {value} for the {noun}[ (of|in) {{target}}]",
        f"~the {noun}[ (of|in) {{target}}] needs to become {value}",
        f"alter the {noun}[ (of|in) {{target}}] so that it equals {value}",
        f"choose a {noun} of {value}[ for {{target}}]",
    )
    return seen, unseen


def removal_frames(noun: str) -> Frames:
    """Templates that take `noun` (such as `the (norms|normalization layers)`) out of the target."""
    seen = (
        f"remove {noun}[ (from|in|of) {{target}}]",
        f"(delete|drop) {noun}[ (from|in|of) {{target}}]",
        f"get rid of {noun}[ (in|of) {{target}}]",
        f"(take|cut) out {noun}[ (in|of) {{target}}]",
        f"strip {noun}[ (from|out of) {{target}}]",
        f"~{{target}} without {noun}",
        f"(run|use|build) {{target}} without {noun}",
        f"eliminate {noun}[ (from|in) {{target}}]",
        f"leave out {noun}[ (of|in) {{target}}]",
        f"throw away {noun}[ (in|of) {{target}}]",
        f"~(could|can) you remove {noun}[ (from|in) {{target}}]?",
        f"~I want {noun} gone[ (from|in) {{target}}]",
        f"make {{target}} do without {noun}",
        f"(disable|switch off) {noun}[ in {{target}}]",
        f"~{noun} should be removed[ (from|in) {{target}}]",
        f"simplify {{target}} by removing {noun}",
        f"(erase|prune) {noun}[ (in|from) {{target}}]",
        f"~{{target}}: (remove|drop) {noun}",
        f"free {{target}} (from|of) {noun}",
        f"~(I|we) don't want {noun}[ in {{target}}] any more",
    )
    unseen = (
        f"dispense with {noun}[ in {{target}}]",
        f"~{noun} can go[ (in|from) {{target}}]",
        f"~no need for {noun}[ in {{target}}]",
        f"excise {noun}[ (from|in) {{target}}]",
        f"discard {noun}[ (in|of) {{target}}]",
        f"~we can live without {noun}[ in {{target}}]",
    )
    return seen, unseen


def exchange_frames(old: str, new: str) -> Frames:
    """Templates that put `new` in the place of `old`; both are noun phrases."""
    seen = (
        f"replace {old}[ (of|in) {{target}}] (by|with) {new}",
        f"(swap|exchange) {old}[ (of|in) {{target}}] for {new}",
        f"use {new} instead of {old}[ in {{target}}]",
        f"~{new} instead of {old}[ in {{target}}]",
        f"(change|turn|convert|transform) {old}[ (of|in) {{target}}] (to|into) {new}",
        f"~{{target}}: {new} instead of {old}",
        f"put {new} in place of {old}[ in {{target}}]",
        f"~{new} in place of {old}[ (in|for) {{target}}]",
        f"(switch|move)[ {{target}}] from {old} to {new}",
        f"let {new} replace {old}[ in {{target}}]",
        f"~{old} -> {new}[ (in|for) {{target}}]",
        f"~(could|can) you replace {old}[ (of|in) {{target}}] (by|with) {new}?",
        f"~I'd (like|prefer) {new} (rather than|over) {old}[ in {{target}}]",
        f"make {old}[ (of|in) {{target}}] {new}",
        f"have {new} where {{target}} (has|uses) {old} now",
        f"drop {old}[ (of|in) {{target}}] (in favour of|in favor of|for) {new}",
    )
    unseen = (
        f"substitute {new} for {old}[ in {{target}}]",
        f"~no {old}[ in {{target}}], take {new}",
        f"trade {old}[ (of|in) {{target}}] for {new}",
        f"~{old}[ (of|in) {{target}}] should give way to {new}",
        f"go with {new} where {old} is now[ in {{target}}]",
    )
    return seen, unseen
