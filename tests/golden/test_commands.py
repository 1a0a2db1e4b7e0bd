"""What each command writes to stdout and stderr, and its exit status."""

import os
import shutil
from pathlib import Path

import pytest

from tests.drawing import write_class_folders
from tests.golden.conftest import INPUTS
from tests.golden.program import Session

COMMANDS = {
    "query": """
        query pictures/circle/0.png codes.bin
        query pictures/circle/0.png codes.bin --json --top 4
        query pictures/circle/0.png codes.bin --not-self --paths --null --top 3
        query pictures/packed.tar/b.png codes.bin --top 2
        query new.png codes.bin --weights tiny.npz --top 3
        query new.png codes.bin --weights tiny.npz --order asymmetric --json --top 3
        query new.png pictures/wide.bmp codes.bin --weights tiny.npz --top 3
        query --code ffffffffffffffff --code 0000000000000000 codes.bin --top 2
        query --code ffffffffffffffff codes.bin --max-distance 0
        query pictures/circle/0.png codes.bin --max-distance 20
        query pictures/circle/0.png codes.bin --under pictures/stripes --under pictures/nested
        query pictures/circle/0.png codes.bin --exclude *.png --exclude nested/again.jpg
        query pictures/damaged.png pictures/circle/1.png codes.bin --weights tiny.npz --top 2 --json
        query pictures/empty.png codes.bin --weights tiny.npz
        query gone.png codes.bin --weights tiny.npz
        query new.png codes.bin
        query --code ff codes.bin
        query --code nothex codes.bin
        query pictures/circle/0.png codes.bin --order best
        query pictures/circle/0.png codes.bin --under /
        query pictures/circle/0.png codes.bin --under elsewhere
        query pictures/circle/0.png gone.bin
        query pictures/circle/0.png new.png
        query codes.bin
    """,
    "dups": """
        dups codes.bin --no-cache
        dups codes.bin --no-cache --json --like pixels
        dups codes.bin --no-cache --omit-first --keep newest
        dups codes.bin --like similar
        dups codes.bin --max-distance 8
        dups codes.bin --max-distance 8 --json
        dups codes.bin --max-distance 8 --across --null
        dups codes.bin --max-distance 8 --across --under pictures/circle --under pictures/nested
        dups codes.bin --max-distance 8 --exclude nested
        dups codes.bin --under pictures/stripes --max-distance 0
        dups new.png
    """,
    "compare": """
        compare pictures/circle/0.png pictures/nested/again.jpg
        compare pictures/circle/0.png pictures/stripes/0.png --json
        compare pictures/circle/0.png pictures/nested/again.jpg --weights tiny.npz
        compare pictures/circle/0.png pictures/stripes/0.png --weights tiny.npz
        compare pictures/circle/0.png pictures/stripes/0.png --weights tiny.npz --json --bits 16 --tta
        compare pictures/circle/0.png pictures/stripes/0.png --weights tiny.npz --max-distance 64 --json
        compare pictures/circle/0.png pictures/text.jpg --weights tiny.npz
        compare pictures/circle/0.png gone.png --weights tiny.npz
        compare pictures/circle/0.png new.png --weights tiny.npz --bits 65
        compare - - --weights tiny.npz
    """,
    "info": """
        info codes.bin
        info codes.bin --json --verify
        info tiny.npz
        info tiny.npz --json
        info new.png
        info gone.bin
        info pictures
    """,
    "export": """
        export codes.bin
        export codes.bin --format tsv --null
        export codes.bin --format ndjson
        export codes.bin -o codes.tsv
        export codes.bin -o codes.npy --quiet
        export codes.bin --format npy
        export codes.bin -o codes.xls
    """,
    "import": """
        export codes.bin -o codes.npy
        import codes.npy --files-from list.txt -o imported.bin
        import codes.npy --files-from list.txt -o imported.bin --bits 60 --json
        info imported.bin
        query --code ffffffffffffffff imported.bin --top 2
        query /away/3.png imported.bin --top 3
        query new.png imported.bin
        import codes.npy --files-from short.txt -o other.bin
        import new.png --files-from list.txt -o other.bin
    """,
    "merge": """
        hash pictures -o part.bin --weights tiny.npz --shard 1/2 --quiet
        merge part-00001-of-00002.bin -o merged.bin
        merge part-00001-of-00002.bin -o merged.bin --partial --json
        hash pictures -o part.bin --weights tiny.npz --shard 2/2 --quiet
        merge part-00001-of-00002.bin part-00002-of-00002.bin -o merged.bin
        info merged.bin
        merge part-00001-of-00002.bin codes.bin -o merged.bin --partial
        merge part-00001-of-00002.bin gone.bin -o merged.bin
    """,
    "eval": """
        eval data --weights tiny.npz --workers 1
        eval data --weights tiny.npz --bits 16 --bits 64 --order asymmetric --json --depth 5
        eval --queries data/test --gallery data/train --weights tiny.npz --tta --json
        eval data --weights tiny.npz --bits 65
        eval data --weights tiny.npz --order best
        eval data/train --weights tiny.npz
        eval gone --weights tiny.npz
    """,
    "weights": """
        weights
        weights --json
    """,
    "usage": """
        hash -o new.bin
        hash pictures
        hash gone -o new.bin --weights tiny.npz
        hash pictures -o gone/new.bin --weights tiny.npz
        hash pictures -o new.bin --weights gone.npz
        hash pictures -o new.bin --weights new.png
        hash pictures -o new.png --weights tiny.npz
        hash pictures -o new.bin --weights tiny.npz --bits 65
        hash pictures -o new.bin --weights tiny.npz --device abacus
        hash pictures -o new.bin --weights tiny.npz --shard 3/2
        hash pictures -o codes.bin --weights tiny.npz --tta
        query --tops 1 new.png codes.bin
        train gone -o gone.npz
        train data -o w.npz --recipe huge
        train data -o w.npz --bits 0
        train data -o w.npz --set stage.distill_weight=1
        train data -o w.npz --set stage.prefix_similarity=1
        train data -o w.npz --conv-rate 0.1
        train data -o w.npz --set stage.conv_rate=0.1
    """,
}


def write_inputs():
    """Write labelled pictures, two of them in the wrong folders, and lists of paths."""
    for part, n, seed in (("train", 5, 0), ("test", 2, 1)):
        write_class_folders(f"data/{part}", n=n, size=24, seed=seed)
    os.rename("data/train/circle/0000.png", "data/train/square/wrong.png")
    os.rename("data/test/stripes/0000.png", "data/test/checker/wrong.png")
    Path("data/test/circle/text.jpg").write_bytes(b"no picture")
    Path("list.txt").write_text("".join(f"/away/{i}.png\n" for i in range(17)))
    Path("short.txt").write_text("/away/0.png\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_command(hashed, golden, name):
    write_inputs()
    for line in COMMANDS[name].split("\n"):
        if line.strip():
            hashed(line.strip())
    golden.check_text(f"{name}.txt", hashed.text, tolerance=1e-6)


def test_stdin(hashed, golden):
    picture = Path("new.png").read_bytes()
    hashed("query - codes.bin --weights tiny.npz --top 2", stdin=picture)
    hashed("query - codes.bin --weights tiny.npz --top 2", stdin=picture[:100])
    hashed("query --files-from - codes.bin --top 1 --json", stdin=b"pictures/circle/1.png\npictures/deep.tif\n")
    hashed("compare - pictures/circle/1.png --weights tiny.npz", stdin=picture)
    hashed("hash --files-from - -0 -o listed.bin --weights tiny.npz", stdin=b"new.png\0pictures/circle/1.png\0")
    golden.check_text("stdin.txt", hashed.text)


def test_hash(session, golden):
    def hash_(more=""):
        session(f"hash pictures -o codes.bin --weights tiny.npz --workers 1 {more}")

    hash_("--json")
    hash_("--strict")
    os.rename("pictures/circle/0.png", "pictures/moved.png")
    os.remove("pictures/circle/1.png")
    shutil.copy2("new.png", "pictures/wide.bmp")
    hash_("--keep-missing")
    hash_()
    hash_("--exclude circle --hidden --json")
    hash_("--rebuild --max-pixels 700")
    hash_("--bits 16")
    session("hash pictures/stripes -o codes.bin --quiet")
    session("hash pictures/stripes -o codes.bin --weights tiny.npz")
    session("hash pictures/stripes pictures/packed.tar -o few.bin --weights tiny.npz --bits 16")
    shutil.copytree("pictures", "elsewhere")
    session("hash elsewhere -o codes.bin --root elsewhere --weights tiny.npz")
    session("hash pictures/.hidden.png -o one.bin --weights tiny.npz")
    session("export codes.bin")
    golden.check_text("hash.txt", session.text)


def test_torch_hashes_as_numpy_does(hashed, golden):
    """More pictures than numpy is used for: codes are those of the golden network in torch."""
    for i in range(501):
        os.symlink(
            os.path.abspath(f"pictures/{('circle', 'stripes')[i % 2]}/{i % 3}.png"), f"pictures/nested/{i:03}.png"
        )
    assert hashed("hash pictures/nested -o many.bin --follow --weights tiny.npz --quiet") == 0
    hashed("query pictures/nested/000.png many.bin --max-distance 0 --top 2")
    hashed("query pictures/nested/001.png many.bin --max-distance 0 --top 2")
    hashed("export many.bin --format ndjson")
    lines = [line for line in hashed.text.splitlines() if '"path": "pictures/nested/00' in line]
    golden.check_text("torch.txt", "\n".join(lines) + "\n")


def test_a_file_with_an_index_is_read_as_any_other(session, golden):
    shutil.copy(INPUTS / "indexed.bin", ".")
    information = Session()
    information("info indexed.bin --verify")
    session.add("".join(line for line in information.text.splitlines(True) if not line.startswith("index:")))
    session("query --code ffffffffffffffff indexed.bin --top 5")
    session("query --code ffffffffffffffff indexed.bin --max-distance 30 --json")
    session("query new.png indexed.bin --weights tiny.npz --top 3")
    session("dups indexed.bin --max-distance 3")
    again = (
        "hash pictures pictures/packed.tar -o indexed.bin --root pictures --weights tiny.npz --workers 1 --quiet --json"
    )
    session(again)
    session("query pictures/circle/0.png indexed.bin --top 3")
    os.remove("pictures/circle/0.png")
    session(again)
    session("query pictures/circle/1.png indexed.bin --top 3")
    session("export indexed.bin")
    golden.check_text("indexed.txt", session.text)
