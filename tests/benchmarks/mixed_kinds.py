"""How many of the top 10 answers are of the query's class, for pictures of mixed kinds with odd names.

    python tests/benchmarks/mixed_kinds.py FOLDER [--each 60] [--queries 50] [--seed 0] [--weights NAME|FILE]

FOLDER has a folder for each class, with pictures that the weights were not trained on. The pictures are written anew as
JPEG, PNG, GIF, WebP and BMP into sub-folders with odd names, hashed and queried with the `drhn` of this environment.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

KINDS = (".jpg", ".PNG", ".gif", ".webp", ".bmp")
NAMES = ("plain", "with space", "ünïcödé 日本", "new\nline", "-dash", "quote'\"", "a.b.c")
TOP = 10


def drhn(*arguments: str) -> str:
    command = [sys.executable, "-m", "drhn_cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=60, help="pictures of each class")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", help="a bundled model or a weights file (the bundled default)")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    classes = {folder.name: sorted(folder.iterdir()) for folder in sorted(options.folder.iterdir()) if folder.is_dir()}
    n_least = min(map(len, classes.values()), default=0)
    n_pictures = options.each * len(classes)
    if options.each > n_least:
        parser.error(f"--each {options.each}: the smallest class has {n_least} pictures")
    if not 1 <= options.queries <= n_pictures or n_pictures < 2:
        parser.error(f"--queries {options.queries}: {n_pictures} pictures are looked up among each other")
    class_of: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as root:
        for name_of_class, sources in classes.items():
            for index, source in enumerate(rng.sample(sources, options.each)):
                name = f"{NAMES[index % len(NAMES)]} {index}{KINDS[index % len(KINDS)]}"
                target = Path(root, "pictures", name_of_class, f"sub {index % 3}", name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(source) as picture:
                    picture.save(target)
                class_of[os.fspath(target)] = name_of_class
        codes = os.path.join(root, "codes.bin")
        chosen = ["--weights", options.weights] if options.weights else []
        summary = json.loads(drhn("hash", os.path.join(root, "pictures"), "-o", codes, "--json", *chosen))
        queries = rng.sample(sorted(class_of), options.queries)
        # One more than asked for, since a picture that is in the file finds itself.
        answers = [
            json.loads(line)
            for line in drhn("query", "--json", "--top", str(TOP + 1), *chosen, *queries, codes).splitlines()
        ]
    right = total = 0
    for query in queries:
        others = [answer["path"] for answer in answers if answer["query"] == query and answer["path"] != query][:TOP]
        right += sum(class_of[path] == class_of[query] for path in others)
        total += len(others)
    print(json.dumps({"hashed": summary["total"], "queries": len(queries), "answers": total, "share": right / total}))


if __name__ == "__main__":
    main()
