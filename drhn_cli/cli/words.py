"""``drhn words``."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from drhn_cli.cli import options
from drhn_cli.cli import output as out
from drhn_cli.cli.app import ExitStatus


def words(
    pattern: Annotated[
        str, Argument(metavar="PATTERN", help="Only words that hold this; * and ? stand for other letters.")
    ] = "",
    *,
    codes: Annotated[str | None, Option(metavar="CODES", help="The words for this code file.")] = None,
    weights: options.Weights = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """List the words that pictures can be looked for by.

    drhn words 'dog*' --weights photos2

    drhn words --codes codes.bin --json

    One word a line, and behind a tab the classes that it means, ten at most (with --json all). Where the classes are
    those of ImageNet, the words are English nouns, else the names of the classes. The exit status is 1 when nothing is
    found.
    """
    from drhn_cli.network.model import load_model, model_of
    from drhn_cli.retrieval.vocabulary import FOR_NOUNS, Vocabulary

    if codes is None:
        model = load_model(weights)
    else:
        from drhn_cli.codes.reader import CodeFile

        with CodeFile.open(codes) as file:
            model = model_of(file.manifest, weights, path=codes)
    vocabulary = Vocabulary(model.class_names)
    found = vocabulary.nouns(pattern)
    for noun in found:
        if json:
            classes = [vocabulary.class_names[number] for number in noun.classes]
            out.write_json({"word": noun.name, "classes": classes, "kinds": noun.n_kinds, "partial": noun.is_partial})
        else:
            out.write_bytes(f"{out.terminal_text(noun.name)}\t{vocabulary.class_list(noun)}\n".encode())
    if not quiet and not vocabulary.has_nouns:
        out.report(f"these are the names of the classes of {model.name}; {FOR_NOUNS}")
    if not found and not quiet:
        out.report("nothing found")
    return ExitStatus.DONE if found else ExitStatus.NOTHING_FOUND
