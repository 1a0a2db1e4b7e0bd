"""``drhn dups`` and ``drhn compare``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from drhn_cli.cli import options
from drhn_cli.cli import output as out
from drhn_cli.cli.app import ExitStatus
from drhn_cli.cli.retrieval import STDIN, found_status, picture_of
from drhn_cli.errors import ConfigError

if TYPE_CHECKING:
    from drhn_cli.retrieval.copies import Copy
    from drhn_cli.retrieval.gallery import FileGallery

_Groups = list[list["Copy"]]


def dups(
    codes: options.Codes,
    *,
    like: Annotated[
        Literal["file", "pixels", "copy", "similar"] | None,
        Option(
            help="What belongs together: files with the same bytes; pictures with the same pixels; copies, however "
            "they were made; or what the network finds alike.  [default: copy]"
        ),
    ] = None,
    keep: Annotated[
        Literal["largest", "oldest", "newest", "shortest-path"],
        Option(help="Which picture of a group comes first. The largest has most pixels; of equal ones it is older."),
    ] = "largest",
    keep_in: Annotated[
        list[str] | None,
        Option(metavar="DIR", help="Pictures in this folder come first, and never go. Repeatable."),
    ] = None,
    omit_first: Annotated[
        bool, Option("--omit-first", help="Print only the files that may go, without blank lines.")
    ] = False,
    script: Annotated[
        str | None,
        Option(metavar="FILE", help="Write a shell script that removes the files that may go, for you to read first."),
    ] = None,
    chain: Annotated[
        bool,
        Option("--chain", help="A group is all that hangs together; by default all are copies of its first picture."),
    ] = False,
    no_open: Annotated[
        bool,
        Option("--no-open", help="Open no picture, as where the drive is away: codes decide, and no file may go."),
    ] = False,
    no_cache: Annotated[
        bool, Option("--no-cache", help="Forget what was found; by default no pair is opened twice.")
    ] = False,
    max_distance: Annotated[
        int | None,
        Option(
            min=0,
            metavar="R",
            help="Codes at most R bits apart belong together; implies --like similar.  [default: 1 of 64 bits]",
        ),
    ] = None,
    across: Annotated[
        bool,
        Option("--across", help="Only groups with pictures in more than one folder (of those of --under, if several)."),
    ] = False,
    under: options.Under = None,
    exclude: options.Exclude = None,
    null: options.Null = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Find copies, and say which may go.

    drhn dups codes.bin

    drhn dups codes.bin --omit-first -0 | xargs -0 mv -t copies-to-look-at

    drhn dups codes.bin --keep-in ~/Pictures/best --script remove.sh

    Copies that were scaled, compressed again, cropped, framed, turned, mirrored, recolored or edited are found by codes
    and then opened, as only their pixels tell them from pictures that are merely alike. A group is printed a path a
    line, the one to keep first, with a blank line after it; on a terminal as a table that says how each was made.

    A file may go if the first of its group shows all that it shows, at least as well: not an original whose crop or
    framed copy comes first, and nothing that was recolored or edited. Paths that lead to one file count once. Nothing
    is ever deleted. The exit status is 1 when nothing is found.
    """
    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.retrieval.gallery import FileGallery

    like = like or ("copy" if max_distance is None else "similar")
    end = b"\0" if null else b"\n"
    chosen = [script is not None, omit_first, chain, no_open, bool(keep_in), keep != "largest"]
    if like == "similar" and any(chosen):
        raise ConfigError("pictures that are merely alike are no copies", hint="leave --like similar out, or the rest")
    if like != "similar" and max_distance is not None:
        raise ConfigError("--max-distance is for --like similar", found=f"--like {like}")
    with CodeFile.open(codes) as file:
        gallery = FileGallery(file, under or (), exclude or ())
        if like == "similar":
            return _write_similar(gallery, max_distance, across=across, end=end, json=json, quiet=quiet)
        from drhn_cli.retrieval.copies import CopyOptions, find_copies

        copy_options = CopyOptions(
            like=like,
            opens=not no_open,
            across=across,
            chain=chain,
            keep=keep,
            keep_in=keep_in or (),
            cache=not no_cache,
        )
        with out.TerminalProgress(quiet=quiet, json=json) as progress:
            groups = find_copies(gallery, copy_options, progress)
    if script is not None and groups:
        from drhn_cli.cli.removal import write_script

        write_script(script, groups)
    _write_copies(groups, omit_first=omit_first, end=end, json=json)
    if groups and not quiet:
        _report_total(groups, script)
    found = groups and (not omit_first or any(copy.may_go for group in groups for copy in group))
    return found_status(bool(found), quiet=quiet)


def _write_similar(
    gallery: FileGallery, max_distance: int | None, *, across: bool, end: bytes, json: bool, quiet: bool
) -> ExitStatus:
    from drhn_cli.retrieval.duplicates import find_duplicates

    shown = out.path_form(end)
    found = False
    for group in find_duplicates(gallery, max_distance, across=across):
        if json:
            pictures = [
                {"path": out.json_path(each.path), "size": each.size, "distance": each.distance} for each in group
            ]
            out.write_json({"pictures": pictures})
        else:
            out.write_bytes(end if found else b"")
            out.write_bytes(b"".join(shown(match.path) + end for match in group))
        found = True
    return found_status(found, quiet=quiet)


def _write_copies(groups: _Groups, *, omit_first: bool, end: bytes, json: bool) -> None:
    shown = out.path_form(end)
    if json:
        for group in groups:
            shown_copies = [copy for copy in group if copy.may_go or not omit_first]
            if shown_copies:
                out.write_json({"pictures": [_as_json(copy) for copy in shown_copies]})
    elif omit_first:
        out.write_bytes(b"".join(shown(path) + end for path in _removable(groups)))
    elif sys.stdout.isatty() and end == b"\n":
        _draw(groups)
    else:
        out.write_bytes(end.join(b"".join(shown(copy.picture.path) + end for copy in group) for group in groups))


def _removable(groups: _Groups) -> Iterator[bytes]:
    """Yield the paths that may go; a file goes by all of its names."""
    for group in groups:
        for copy in group:
            if copy.may_go:
                yield from (copy.picture.path, *copy.picture.aliases)


def _as_json(copy: Copy) -> dict[str, Any]:
    entry, verdict = copy.picture.entry, copy.verdict
    return {
        "path": out.json_path(copy.picture.path),
        "size": entry.stamp.size,
        "width": entry.width,
        "height": entry.height,
        "verdict": None if verdict is None else verdict.words,
        "may_go": copy.may_go,
    }


def _draw(groups: _Groups) -> None:
    rows: list[list[str]] = []
    for group in groups:
        rows += [[""] * 6] if rows else []
        for copy in group:
            entry = copy.picture.entry
            changed = datetime.fromtimestamp(entry.stamp.mtime_ns / 1e9).astimezone()
            words = "" if copy.verdict is None else copy.verdict.words
            fate = "keep" if copy is group[0] else "may go" if copy.may_go else "look"
            rows.append(
                [
                    fate,
                    f"{entry.width}x{entry.height}",
                    out.format_bytes(entry.stamp.size),
                    f"{changed:%Y-%m-%d}",
                    words,
                    os.fsdecode(out.shown_path(copy.picture.path)),
                ]
            )
    out.draw_table(["", "pixels", "size", "changed", "how it was made", "path"], rows, text_column="path")


def _report_total(groups: _Groups, script: str | None) -> None:
    going = [copy.picture.entry.stamp.size for group in groups for copy in group if copy.may_go]
    n_pictures = sum(map(len, groups))
    found = f"{out.counted(len(groups), 'group')} of {out.counted(n_pictures, 'picture')}"
    written = "" if script is None else f"; read {script} before you run it"
    out.report(f"{found}; {out.counted(len(going), 'file')} may go, {out.format_bytes(sum(going))}{written}")


def compare(
    first: Annotated[str, Argument(metavar="A", help="A picture; - is stdin.")],
    second: Annotated[str, Argument(metavar="B", help="Another picture; - is stdin.")],
    *,
    max_distance: Annotated[
        int | None,
        Option(
            min=0, metavar="R", help="Pictures at most R bits apart are near: exit status 0.  [default: 1 of 64 bits]"
        ),
    ] = None,
    weights: options.Weights = None,
    bits: Annotated[
        int | None, Option(min=1, metavar="N", help="Length of the codes.  [default: the network's longest]")
    ] = None,
    tta: options.Tta = None,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> int:
    """Tell whether two pictures are copies, and how.

    drhn compare a.jpg b.jpg

    if drhn compare old.png new.png >/dev/null; then echo copies; fi

    drhn compare a.jpg b.jpg --max-distance 4

    Prints what B is to A: same file, same pixels, resized, recompressed, recolored, cropped, framed, turned, mirrored,
    edited, same scene, or different. The exit status is 0 for copies, 1 for the last two, 2 when a picture cannot be
    read.

    With an option of the network (--max-distance, --weights, --bits, --tta) it prints how many bits their codes are
    apart, and the exit status is 0 when that is near.
    """
    if first == second == STDIN:
        raise ConfigError("both pictures are on stdin", hint="name one of them by its file")
    if (max_distance, weights, bits, tta) == (None, None, None, None):
        return _compare_pixels(first, second, json=json)
    from drhn_cli.retrieval.duplicates import compare_pictures, near_distance

    pictures = [picture_of(path) for path in (first, second)]
    distance, n_bits = compare_pictures(pictures, weights=weights, n_bits=bits, views=options.n_views(tta))
    near = distance <= (near_distance(n_bits) if max_distance is None else max_distance)
    if json:
        out.write_json({"a": first, "b": second, "distance": distance, "bits": n_bits, "near": near})
    else:
        out.write_bytes(b"%d\n" % distance)
    return ExitStatus.DONE if near else ExitStatus.NOTHING_FOUND


def _compare_pixels(first: str, second: str, *, json: bool) -> ExitStatus:
    from drhn_cli.retrieval.pairs import judge_sources

    verdict = judge_sources(picture_of(first), picture_of(second))
    words = verdict.words
    if json:
        share = None if verdict.share is None else round(verdict.share, 4)
        box = None if verdict.box is None else [round(side, 4) for side in verdict.box]
        inner = None if verdict.inner is None else (first, second)[verdict.inner]
        found = {"verdict": words, "copy": verdict.is_copy, "agreeing": share, "inner": inner, "box": box}
        out.write_json({"a": first, "b": second, **found})
    else:
        out.write_bytes(words.encode() + b"\n")
    return ExitStatus.DONE if verdict.is_copy else ExitStatus.NOTHING_FOUND
