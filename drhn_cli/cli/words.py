"""``drhn words`` and ``drhn label``."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from drhn_cli.cli import options
from drhn_cli.cli import output as out
from drhn_cli.cli.retrieval import found_status


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
    return found_status(bool(found), quiet=quiet)


def label(
    codes: options.Codes,
    *,
    top: Annotated[int, Option(min=1, metavar="N", help="At most so many words for a picture.")] = 1,
    min_probability: Annotated[
        float, Option(min=0, max=1, metavar="P", help="Only words that are at least this likely.")
    ] = 0.5,
    under: options.Under = None,
    exclude: options.Exclude = None,
    weights: options.Weights = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Tell in a word what each picture shows.

    drhn label codes.bin --min-probability 0.8

    drhn label codes.bin --under ~/Pictures/new --json | jq -r .word

    A line for each picture and word, `probability<TAB>word<TAB>path`: the most special word that is likely, a breed or
    else dog. A picture of which no word is likely enough has no line. No picture is opened. The exit status is 1 when
    nothing is found.
    """
    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.network.model import model_of
    from drhn_cli.retrieval.gallery import FileGallery

    found = False
    with CodeFile.open(codes) as file:
        gallery = FileGallery(file, under or (), exclude or ())
        model = model_of(file.manifest, weights, path=codes)
        for path, noun, probability in gallery.labels(model, top_k=top, min_probability=min_probability):
            found = True
            if json:
                out.write_json({"path": out.json_path(path), "word": noun.name, "probability": round(probability, 4)})
            else:
                word = out.terminal_text(noun.name).encode()
                out.write_bytes(b"%.4f\t%s\t%s\n" % (probability, word, out.shown_path(path)))
    return found_status(found, quiet=quiet)
