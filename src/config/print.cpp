// Everything that is printed from the option table.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "hf_arguments.h"
#include "option_table.h"
#include "sft/config/parse.h"
#include "value.h"

namespace sft::config {
namespace {

constexpr std::size_t kHelpColumns = 100;

constexpr const char* kUsage =
    "sft-dist: supervised fine-tuning of causal language models, data-parallel over MPI ranks\n"
    "\n"
    "  mpirun -np N sft-dist --args run.ini [--key value ...]   train (without mpirun: one rank)\n"
    "  sft-dist --args run.ini --check-config                   check the options and stop\n"
    "  sft-dist --args run.ini --print-config[=json]            print every option with its value\n"
    "  sft-dist verify PATH ...                                 check a checkpoint, model or data set\n"
    "  sft-dist bench --args run.ini [--steps N] [--json]       measure the machine and steps of a run\n"
    "  sft-dist generate MODEL --ids 1,2,3                      print a greedy continuation, as token ids\n"
    "  sft-dist export --merge ADAPTER OUT                      write a model with its adapter in it\n"
    "  mpirun -np N sft-dist doctor --args run.ini              check hosts, files, network before a run\n"
    "  sft-dist inspect-step --step N --args run.ini            list the rows that a step consumes\n"
    "  sft-dist --help | --version\n"
    "\n"
    "Options stand in run.ini as lines `key = value`, or on the command line as --key value or\n"
    "--key=value, with underscores or dashes; true may be left out there. --args may be repeated: a later\n"
    "file wins over an earlier one, the command line over all. Names and defaults are those of TRL's\n"
    "SFTConfig where it has them.\n";

constexpr const char* kMarkdownHead =
    "# Options\n"
    "\n"
    "Generated from the option table (`src/config/option_table.cpp`) by `sft-dist --print-options-doc > "
    "docs/options.md`; a test fails when it is stale.\n"
    "Names and defaults are those of TRL's SFTConfig where it has them; what differs is in "
    "[numerics.md](numerics.md).\n"
    "\n"
    "## Where options stand\n"
    "\n"
    "`sft-dist --args run.ini [--args more.ini ...] [--key value ...]`. Default < file < later file < "
    "command line. "
    "On the command line: `--key value`, `--key=value` or `key=value`, with underscores or dashes; `--key` "
    "alone means "
    "true, `--no_key` false; several words behind a list (`--lora_target_modules q_proj v_proj`) are its entries. "
    "There too an option may not stand under two names; under one the last holds.\n"
    "\n"
    "A file holds lines `key = value`:\n"
    "\n"
    "- `#` starts a comment at the beginning of a line or after white space.\n"
    "- `true`/`false` in any case, also `1`/`0`, `yes`/`no`, `on`/`off`. Numbers as `500` or `2e-5`. `None` "
    "unsets an "
    "option whose type says so.\n"
    "- Quotes keep `#`, blanks at the ends and the word `None`: between `'` everything stands for itself, "
    "between `\"` "
    "there are `\\\"`, `\\\\`, `\\n` and `\\t`.\n"
    "- Lists are written `a, b` or `[\"a\", \"b\"]`. There are no `[section]` lines.\n"
    "- The same option twice in one file, also under another name, is an error.\n"
    "- Lines have at most 64 KiB, files at most 1 MiB.\n"
    "- Relative paths start at the working directory; `~/` is the home folder.\n"
    "\n"
    "`--check-config` stops after these checks, `--print-config` prints every option with its value in this "
    "syntax, with "
    "absolute paths, `--print-config=json` as a JSON object. An error ends the program with code 92.\n"
    "\n"
    "A number of steps below 1 is a fraction of all steps, rounded up.\n";

// Calls on_group(heading) before the first row of each group, and on_row(row).
template <typename OnGroup, typename OnRow>
void for_each_row(OnGroup&& on_group, OnRow&& on_row) {
  std::string group;
  for (const OptionRow& row : option_table()) {
    if (row.group != group) on_group(group = row.group);
    on_row(row);
  }
}

// "int or None, 2 or more"
std::string value_text(const OptionRow& row) {
  const Rule& rule = row.rule;
  if (!rule.choices.empty()) {
    return fmt::format("{}{}", fmt::join(rule.choices, " | "), rule.is_list ? ", separated by commas" : "");
  }
  const std::string type = type_name(row);
  return rule.allowed.empty() ? type : fmt::format("{}: {}", type, rule.allowed);
}

std::string wrapped(const std::string& text, std::size_t indent) {
  std::string result, line;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!line.empty() && indent + line.size() + 1 + word.size() > kHelpColumns) {
      result += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
    begin = end + 1;
  }
  return result + std::string(indent, ' ') + line + "\n";
}

// A bar would end the cell.
std::string table_cell(const std::string& text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? "\\|" : std::string(1, c);
  return cell;
}

std::string other_names_markdown() {
  std::string text = "\n## Other names\n\nTaken with a notice:\n\n| Name | Option |\n|---|---|\n";
  for (const Alias& alias : aliases()) {
    text += fmt::format("| `{}` | `{}`{} |\n", alias.name, alias.option,
                        alias.note.empty() ? "" : ": " + alias.note);
  }
  text +=
      "\nThese arguments of transformers and TRL change no result here; they are named in one notice and "
      "ignored:\n";
  std::vector<std::string> names;
  for (const HfArgument& argument : hf_arguments()) {
    if (argument.any_value_is_harmless) names.push_back(fmt::format("`{}`", argument.name));
  }
  std::sort(names.begin(), names.end());
  text += fmt::format("{}.\n", fmt::join(names, ", "));
  text +=
      "\nThese are ignored with the values that ask for nothing, and refused with others:\n\n| Name | "
      "Instead |\n|---|---|\n";
  for (const HfArgument& argument : hf_arguments()) {
    if (argument.any_value_is_harmless) continue;
    const std::string taken = fmt::format("{}", fmt::join(argument.taken_with_advice, ", "));
    text += fmt::format("| `{}` | {}{} |\n", argument.name, table_cell(argument.advice),
                        taken.empty() ? "" : " (" + taken + ": taken, with this notice)");
  }
  return text;
}

}  // namespace

std::string help_text() {
  const Options defaults;
  std::string text = kUsage;
  for_each_row([&](const std::string& group) { text += fmt::format("\n{}\n", group); },
               [&](const OptionRow& row) {
                 text += fmt::format("  {} = {}\n", row.name, plain_value(row, defaults));
                 text += wrapped(fmt::format("{} ({})", row.help, value_text(row)), 6);
               });
  return text;
}

std::string options_markdown() {
  const Options defaults;
  std::string text = kMarkdownHead;
  for_each_row(
      [&](const std::string& group) {
        text += fmt::format("\n## {}\n\n| Option | Default | Meaning | Value |\n|---|---|---|---|\n", group);
      },
      [&](const OptionRow& row) {
        text += fmt::format("| `{}` | `{}` | {} | {} |\n", row.name, plain_value(row, defaults),
                            table_cell(row.help), table_cell(value_text(row)));
      });
  return text + other_names_markdown();
}

std::string to_ini(const Options& options) {
  std::string text;
  for_each_row(
      [&](const std::string& group) { text += fmt::format("{}# {}\n", text.empty() ? "" : "\n", group); },
      [&](const OptionRow& row) { text += fmt::format("{} = {}\n", row.name, ini_value(row, options)); });
  return text;
}

std::string to_json(const Options& options) {
  std::vector<std::string> members;
  for (const OptionRow& row : option_table()) {
    members.push_back(fmt::format("  \"{}\": {}", row.name, json_value(row, options)));
  }
  return fmt::format("{{\n{}\n}}", fmt::join(members, ",\n"));
}

}  // namespace sft::config
