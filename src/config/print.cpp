// Everything that is printed from the option table.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "option_table.h"
#include "sft/config/parse.h"
#include "value.h"

namespace sft::config {
namespace {

// Paths that are relative to the working directory, made absolute. A name that is no existing folder or file
// may be a hub id and stays.
std::string effective_value(const OptionRow& row, const Options& options) {
  const std::string value = row.get(options);
  if (!row.is_path || value == "None") return value;
  const bool names_a_model = row.name == "model_name_or_path" || row.name == "tokenizer_name_or_path" ||
                             row.name == "dataset_name" || row.name == "resume_from_checkpoint";
  std::error_code ignored;
  if (names_a_model && !std::filesystem::exists(value, ignored)) return value;
  return std::filesystem::absolute(value).lexically_normal().string();
}

// Calls visit(heading) before the first row of each group, then visit(row).
template <typename OnGroup, typename OnRow>
void for_each_row(OnGroup&& on_group, OnRow&& on_row) {
  std::string group;
  for (const OptionRow& row : option_table()) {
    if (row.group != group) on_group(group = row.group);
    on_row(row);
  }
}

std::string allowed_text(const OptionRow& row) {
  return row.allowed.empty() ? row.type : fmt::format("{}", fmt::join(row.allowed, " | "));
}

std::string wrapped(const std::string& text, std::size_t indent, std::size_t width) {
  std::string result, line;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!line.empty() && indent + line.size() + 1 + word.size() > width) {
      result += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
    begin = end + 1;
  }
  return result + std::string(indent, ' ') + line + "\n";
}

}  // namespace

std::string help_text() {
  std::string text =
      "sft-dist: supervised fine-tuning of causal language models, data-parallel over MPI ranks\n\n"
      "  sft-dist --args run.ini [--key value ...]      train (or: mpirun -np N sft-dist ...)\n"
      "  sft-dist --args run.ini --check-config         check the options and stop\n"
      "  sft-dist --args run.ini --print-config[=json]  print every option with its value\n"
      "  sft-dist verify PATH ...                       check a checkpoint, model folder or data set\n"
      "  sft-dist generate MODEL --ids 1,2,3            print the ids of a greedy continuation\n"
      "  sft-dist --help | --version\n\n"
      "Options go into run.ini as `key = value` lines, or on the command line, which wins.\n"
      "Names and defaults are those of TRL's SFTConfig.\n";
  for_each_row([&](const std::string& group) { text += fmt::format("\n{}\n", group); },
               [&](const OptionRow& row) {
                 text += fmt::format("  {} = {}\n", row.name, row.default_text);
                 text += wrapped(row.help + " (" + allowed_text(row) + ")", 6, 100);
               });
  return text;
}

std::string options_markdown() {
  std::string text =
      "# Options\n\nGenerated from the option table by `sft-dist --print-options-doc > docs/options.md`; a "
      "test fails when it is stale.\n"
      "Names and defaults are those of TRL's SFTConfig where they exist there; differences are in "
      "[numerics.md](numerics.md).\n";
  const auto escaped = [](std::string value) {
    for (std::size_t i = 0; (i = value.find('|', i)) != std::string::npos; i += 2) value.insert(i, "\\");
    return value;
  };
  for_each_row(
      [&](const std::string& group) {
        text += fmt::format("\n## {}\n\n| Option | Value | Default | |\n|---|---|---|---|\n", group);
      },
      [&](const OptionRow& row) {
        text += fmt::format("| `{}` | {} | `{}` | {} |\n", row.name, escaped(allowed_text(row)),
                            row.default_text, escaped(row.help));
      });
  text += "\n## Other names\n\nAccepted with a notice:\n\n| Name | Option |\n|---|---|\n";
  for (const Alias& alias : aliases())
    text += fmt::format("| `{}` | `{}`{} |\n", alias.name, alias.option, alias.convert ? " = cpu" : "");
  return text;
}

std::string to_ini(const Options& options) {
  std::string text;
  for_each_row(
      [&](const std::string& group) { text += fmt::format("{}# {}\n", text.empty() ? "" : "\n", group); },
      [&](const OptionRow& row) {
        text += fmt::format("{} = {}\n", row.name, quoted_for_ini(effective_value(row, options)));
      });
  return text;
}

std::string to_json(const Options& options) {
  std::vector<std::string> members;
  for (const OptionRow& row : option_table())
    members.push_back(fmt::format("\"{}\": {}", row.name, row.get_json(options)));
  return fmt::format("{{{}}}", fmt::join(members, ", "));
}

}  // namespace sft::config
