"""python -m prepare.make_python_chats FOLDER: questions and answers about numpy and pandas, from their docstrings, as chats.

Both packages (BSD licence) are installed by launch/setup in pinned versions; their sources are parsed, not run. What a function does is its
docstring's text before the first section; how it is used, its first example. FOLDER/train.jsonl holds most, FOLDER/test.jsonl every 20th
function's; no answer occurs twice.
"""

import ast
import importlib.util
import inspect
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import CONFIG, PrepareError
from .fetch_imdb import write_lines

PACKAGES = ("numpy", "pandas")
SEED, ONE_IN = 42, 20
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\s*$", re.MULTILINE)
LENGTHS = range(40, 1500)  # characters of an answer
SYSTEM = "You answer questions about Python libraries, briefly and correctly."


def documented_functions(package: str) -> Iterator[tuple[str, str, str]]:
    """(name, parameters as text, docstring) of public functions and methods (Class.method), in the order of the files."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise PrepareError(f"the package {package}, whose documentation is wanted, is not installed: run launch/setup.", CONFIG)
    root = Path(spec.submodule_search_locations[0])
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        if "tests" in parts or any(part.startswith("test") for part in parts):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                yield from documented("", node)
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        yield from documented(f"{node.name}.", method)


def documented(owner: str, node: ast.FunctionDef) -> Iterator[tuple[str, str, str]]:
    docstring = ast.get_docstring(node)
    if docstring and not node.name.startswith("_"):
        arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if argument.arg not in ("self", "cls")]
        yield f"{owner}{node.name}", ", ".join(arguments), inspect.cleandoc(docstring)


def sections(docstring: str) -> dict[str, str]:
    """Section -> its text; "" is what stands before the first."""
    pieces = SECTION.split(docstring)
    return {"": pieces[0].strip(), **{name.strip(): text.strip() for name, text in zip(pieces[1::2], pieces[2::2])}}


def chats(package: str, name: str, parameters: str, docstring: str) -> Iterator[dict]:
    parts = sections(docstring)
    answers = [(f"In {package}, what does `{name}({parameters})` do?", re.sub(r"\n\n\.\. \w+::.*", "", parts[""], flags=re.DOTALL)),
               (f"Show me how to use `{name}` of {package}.", parts.get("Examples", "").split("\n\n\n")[0])]
    for question, answer in answers:
        if len(answer.strip()) in LENGTHS and "%(" not in answer and "{" not in question:
            yield {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question},
                                {"role": "assistant", "content": answer.strip()}]}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return CONFIG
    folder, seen, count = Path(arguments[0]), set(), 0
    rows: dict[str, list[dict]] = {"train": [], "test": []}
    try:
        for package in PACKAGES:
            for name, parameters, docstring in documented_functions(package):
                found = [chat for chat in chats(package, name, parameters, docstring) if chat["messages"][-1]["content"] not in seen]
                seen.update(chat["messages"][-1]["content"] for chat in found)
                count += bool(found)
                rows["test" if count % ONE_IN == 0 else "train"] += found
    except PrepareError as error:
        print(f"make_python_chats: error: {error}", file=sys.stderr)
        return error.code
    random.Random(SEED).shuffle(rows["train"])
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in rows.items():
        write_lines(folder / f"{part}.jsonl", chosen)
    print(f"{folder}: {len(rows['train']):,} chats to train on, {len(rows['test']):,} held out, from the documentation of {' and '.join(PACKAGES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
