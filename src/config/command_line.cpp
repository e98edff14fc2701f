#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <string>
#include <vector>

#include "option_table.h"
#include "sft/base/error.h"
#include "sft/config/parse.h"

namespace sft::config {
namespace {

namespace po = boost::program_options;
using base::ExitCode;
using base::fail;
using Words = std::vector<std::string>;

constexpr const char *kSetting = "setting", *kOperand = "operand";

// What the program itself is told. `setting` and `operand` are filled by SettingsReader.
po::options_description own_options() {
  po::options_description description;
  auto add = description.add_options();
  add("args", po::value<Words>()->composing());
  add("help,h", "");
  add("version", "");
  add("check-config", "");
  add("print-config", po::value<std::string>()->implicit_value("ini"));
  add("print-options-doc", "");
  add("merge", "");
  add("ids", po::value<std::string>());
  add("max-new-tokens", po::value<std::string>()->default_value("40"));
  add("step", po::value<std::string>());
  add("ranks", po::value<std::string>()->default_value(""));
  add("steps", po::value<std::string>()->default_value("5"));
  add("json", "");
  add(kSetting, po::value<Words>()->composing());
  add(kOperand, po::value<Words>()->composing());
  return description;
}

// Hooks into Boost's parser: takes `--key value`, `--key=value`, `key=value` and words without dashes off the
// front of the arguments, and leaves the program's own options (in the spelling with dashes) to Boost.
class SettingsReader {
 public:
  explicit SettingsReader(const po::options_description& own) : own_(own) {}

  std::vector<po::option> operator()(Words& words) {
    std::string& word = words.front();
    if (!word.starts_with('-')) return {take(words, is_setting(word) ? kSetting : kOperand, word)};
    if (!word.starts_with("--") || word == "--") return {};
    const auto equals = word.find('=');
    const std::string key = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    const std::string own_key = replaced(key, '_', '-');
    if (is_own(own_key)) {
      word.replace(2, key.size(), own_key);
      return {};
    }
    if (equals != std::string::npos) return {take(words, kSetting, word.substr(2))};
    return {take_with_value(words, key)};
  }

 private:
  static std::string replaced(std::string text, char from, char to) {
    std::replace(text.begin(), text.end(), from, to);
    return text;
  }

  bool is_own(const std::string& key) const {
    return key != kSetting && key != kOperand && own_.find_nothrow(key, false) != nullptr;
  }

  bool is_setting(const std::string& word) {
    has_command_ =
        has_command_ || word.find('=') == std::string::npos;  // what follows a command is its operand
    return !has_command_;
  }

  static po::option take(Words& words, const char* as, const std::string& value) {
    po::option option(as, {value});
    option.original_tokens = {words.front()};
    words.erase(words.begin());
    return option;
  }

  static po::option take_with_value(Words& words, const std::string& key) {
    if (words.size() > 1 && !words[1].starts_with("--")) {
      std::string value = words[1];
      words.erase(words.begin());
      while (takes_list(replaced(key, '-', '_')) && words.size() > 1 && !words[1].starts_with('-')) {
        value += "," + words[1];
        words.erase(words.begin());
      }
      return take(words, kSetting, key + "=" + value);
    }
    if (!may_stand_alone(replaced(key, '-', '_')))
      fail(ExitCode::kConfig, "command line: --{} needs a value", key);
    return take(words, kSetting, key + "=true");
  }

  // Words behind one another, as transformers' command line takes lists, are joined by commas.
  static bool takes_list(const std::string& name) {
    const Alias* alias = find_alias(name);
    const OptionRow* row = find_option(alias ? alias->option : name);
    return row && row->rule.is_list;
  }

  // Flags; and names that are not known here, for which parse_options has the better message.
  static bool may_stand_alone(const std::string& name) {
    const Alias* alias = find_alias(name);
    const OptionRow* row = find_option(alias ? alias->option : name);
    if (!row || (alias && alias->convert)) return true;
    Options options;
    const Slot slot = row->slot(options);
    return std::holds_alternative<bool*>(slot) || std::holds_alternative<std::optional<bool>*>(slot) ||
           row->rule.path == PathKind::kResume;
  }

  const po::options_description& own_;
  bool has_command_ = false;
};

po::variables_map read(int argc, const char* const* argv) {
  try {
    const po::options_description own = own_options();
    constexpr int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::variables_map values;
    po::store(po::command_line_parser(argc, argv)
                  .options(own)
                  .style(style)
                  .extra_style_parser(SettingsReader(own))
                  .run(),
              values);
    return values;
  } catch (const po::error& error) {
    fail(ExitCode::kConfig, "command line: {}; sft-dist --help lists the options", error.what());
  }
}

Words words_of(const po::variables_map& values, const char* name) {
  return values.count(name) ? values[name].as<Words>() : Words{};
}

Command print_config_of(const po::variables_map& values) {
  const std::string& form = values["print-config"].as<std::string>();
  if (form == "ini") return Command::kPrintConfig;
  if (form == "json") return Command::kPrintConfigJson;
  fail(ExitCode::kConfig, "--print-config={}: use --print-config=ini or --print-config=json", form);
}

Command flag_command_of(const po::variables_map& values) {
  if (values.count("help")) return Command::kHelp;
  if (values.count("version")) return Command::kVersion;
  if (values.count("print-options-doc")) return Command::kPrintOptionsDoc;
  if (values.count("print-config") && values.count("check-config"))
    fail(ExitCode::kConfig, "command line: --print-config and --check-config: choose one");
  if (values.count("print-config")) return print_config_of(values);
  return values.count("check-config") ? Command::kCheckConfig : Command::kTrain;
}

// bench [--steps N] [--json]
void read_bench(CommandLine& result, const po::variables_map& values) {
  result.command = Command::kBench;
  if (!result.operands.empty())
    fail(ExitCode::kConfig, "usage: sft-dist bench --args run.ini [--steps N] [--json]");
  const std::string& steps = values["steps"].as<std::string>();
  if (parse_integer(steps, "--steps") < 1) fail(ExitCode::kConfig, "--steps = {}: must be 1 or more", steps);
  result.operands = {steps, values.count("json") ? "json" : "table"};
}

// verify PATH ..., generate MODEL --ids 1,2,3, export --merge ADAPTER OUT, inspect-step --step N, doctor
void read_command_word(CommandLine& result, const po::variables_map& values) {
  const std::string word = result.operands.front();
  result.operands.erase(result.operands.begin());
  if (word == "verify") {
    result.command = Command::kVerify;
    if (result.operands.empty()) fail(ExitCode::kConfig, "usage: sft-dist verify PATH ...");
  } else if (word == "generate") {
    result.command = Command::kGenerate;
    if (result.operands.size() != 1 || !values.count("ids")) {
      fail(ExitCode::kConfig, "usage: sft-dist generate MODEL --ids 1,2,3 [--max-new-tokens 40]");
    }
    for (const char* name : {"ids", "max-new-tokens"})
      result.operands.push_back(values[name].as<std::string>());
  } else if (word == "bench") {
    read_bench(result, values);
  } else if (word == "export") {
    result.command = Command::kExport;
    if (result.operands.size() != 2 || !values.count("merge"))
      fail(ExitCode::kConfig, "usage: sft-dist export --merge ADAPTER OUT");
  } else if (word == "doctor") {
    result.command = Command::kDoctor;
    if (!result.operands.empty()) fail(ExitCode::kConfig, "usage: sft-dist doctor --args run.ini [--option value ...]");
  } else if (word == "inspect-step") {
    result.command = Command::kInspectStep;
    if (!result.operands.empty() || !values.count("step"))
      fail(ExitCode::kConfig, "usage: sft-dist inspect-step --step N --args run.ini [--ranks W]");
    for (const char* name : {"step", "ranks"}) result.operands.push_back(values[name].as<std::string>());
  } else {
    fail(ExitCode::kConfig,
         "command line: '{}' is no command; options are given as --key value, files as --args FILE", word);
  }
}

void check_flags_of_commands(const po::variables_map& values, Command command) {
  struct Flag {
    const char* name;
    Command command;
    const char* word;
  };
  constexpr Flag kFlags[] = {
      {"step", Command::kInspectStep, "inspect-step"}, {"ranks", Command::kInspectStep, "inspect-step"},
      {"steps", Command::kBench, "bench"},             {"json", Command::kBench, "bench"},
      {"ids", Command::kGenerate, "generate"},         {"max-new-tokens", Command::kGenerate, "generate"},
      {"merge", Command::kExport, "export"}};
  for (const Flag& flag : kFlags) {
    if (values.count(flag.name) && !values[flag.name].defaulted() && flag.command != command)
      fail(ExitCode::kConfig, "command line: --{} belongs to sft-dist {}", flag.name, flag.word);
  }
}

// These read no options of a run.
void check_has_no_options(const CommandLine& line) {
  const bool reads_none = line.command == Command::kVerify || line.command == Command::kGenerate || line.command == Command::kExport;
  if (!reads_none || (line.settings.empty() && line.ini_texts_from.empty())) return;
  fail(ExitCode::kConfig, "command line: this command takes no {}",
       line.settings.empty() ? "--args" : fmt::format("option --{}", line.settings.front().substr(0, line.settings.front().find('='))));
}

}  // namespace

CommandLine parse_command_line(int argc, const char* const* argv) {
  const po::variables_map values = read(argc, argv);
  CommandLine result;
  const Command by_flag = flag_command_of(values);
  result.command = by_flag;
  result.ini_texts_from = words_of(values, "args");
  result.settings = words_of(values, kSetting);
  result.operands = words_of(values, kOperand);
  if (result.command != Command::kHelp && !result.operands.empty()) read_command_word(result, values);
  if (by_flag != Command::kTrain && by_flag != result.command)
    fail(ExitCode::kConfig, "command line: --check-config, --print-config and the like go without a command");
  check_flags_of_commands(values, result.command);
  check_has_no_options(result);
  return result;
}

}  // namespace sft::config
