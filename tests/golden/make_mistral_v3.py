"""Makes mistral_v3.json: what the chat template of Mistral-7B-Instruct-v0.3 makes of the conversations of prepare_trl_test.py, and how it refuses some.

    .venv/bin/python tests/golden/make_mistral_v3.py TEMPLATE      the model's chat template in a file
"""

import json
import sys
from pathlib import Path

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

GOLDEN = Path(__file__).with_name("mistral_v3.json")
sys.path[:0] = [str(GOLDEN.parents[1] / "integration"), str(GOLDEN.parents[2] / "src")]


def main() -> None:
    template = Path(sys.argv[1]).read_text()
    if not GOLDEN.exists():
        GOLDEN.write_text('{"rendered": [], "refusals": []}')  # which prepare_trl_test.py reads when it is imported
    from prepare_trl_test import EOS, FAMILIES, REFUSED

    def render(chat, tools, prompt=False):
        (text,), _ = render_jinja_template([chat], tools=tools, chat_template=template, add_generation_prompt=prompt, bos_token=EOS, eos_token=EOS)
        return text

    def refusal(chat, tools):
        try:
            return "not refused: " + render(chat, tools)
        except TemplateError as error:
            return str(error)

    rendered = [render(chat, tools, prompt) for chat, (tools, _), prompt in FAMILIES["mistral_v3"].conversations()]
    GOLDEN.write_text(json.dumps({"rendered": rendered, "refusals": [refusal(*case) for case in REFUSED["mistral_v3"]]}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
