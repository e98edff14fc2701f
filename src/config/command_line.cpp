#include <boost/program_options.hpp>

#include <fmt/core.h>

#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/config/parse.h"

namespace sft::config {
namespace {

namespace po = boost::program_options;
using base::ExitCode;
using base::fail;

// Options of the program itself; everything else of the form --key value is a setting.
po::options_description own_options() {
  po::options_description description;
  auto add = description.add_options();
  add("args", po::value<std::vector<std::string>>()->composing());
  add("help,h", "");
  add("version", "");
  add("check-config", "");
  add("print-config", po::value<std::string>()->implicit_value("ini"));
  add("print-options-doc", "");
  add("ids", po::value<std::string>());
  add("max_new_tokens", po::value<std::string>()->default_value("40"));
  return description;
}

Command command_of(const po::variables_map& values) {
  if (values.count("help")) return Command::kHelp;
  if (values.count("version")) return Command::kVersion;
  if (values.count("check-config")) return Command::kCheckConfig;
  if (values.count("print-options-doc")) return Command::kPrintOptionsDoc;
  if (!values.count("print-config")) return Command::kTrain;
  const std::string& form = values["print-config"].as<std::string>();
  if (form == "ini") return Command::kPrintConfig;
  if (form == "json") return Command::kPrintConfigJson;
  fail(ExitCode::kConfig, "--print-config={}: use ini or json", form);
}

// --key value, --key=value, and a bare --flag for true. `position` is at the token and is left at the last
// one used.
std::string read_setting(const std::vector<std::string>& tokens, std::size_t& position) {
  const std::string body = tokens[position].substr(2);
  if (body.find('=') != std::string::npos) return body;
  const bool has_value = position + 1 < tokens.size() && tokens[position + 1].rfind("--", 0) != 0;
  return body + "=" + (has_value ? tokens[++position] : "true");
}

}  // namespace

CommandLine parse_command_line(int argc, const char* const* argv) {
  CommandLine result;
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string verb = !words.empty() && words[0].rfind('-', 0) != 0 ? words[0] : "";
  const po::options_description known = own_options();  // the parsed options refer to it
  try {
    const po::parsed_options parsed =
        po::command_line_parser(std::vector<std::string>(words.begin() + (verb.empty() ? 0 : 1), words.end()))
            .options(known)
            .allow_unregistered()
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run();
    po::variables_map values;
    po::store(parsed, values);
    if (values.count("args")) result.ini_texts_from = values["args"].as<std::vector<std::string>>();
    const std::vector<std::string> rest = po::collect_unrecognized(parsed.options, po::include_positional);

    if (verb == "verify" || verb == "generate") {
      result.command = verb == "verify" ? Command::kVerify : Command::kGenerate;
      result.operands = rest;
      if (rest.empty() || (verb == "generate" && (rest.size() != 1 || !values.count("ids")))) {
        fail(ExitCode::kConfig, "usage: sft-dist {}",
             verb == "verify" ? "verify PATH ..." : "generate MODEL --ids 1,2,3 [--max_new_tokens 40]");
      }
      if (verb == "generate") {
        result.operands.push_back(values["ids"].as<std::string>());
        result.operands.push_back(values["max_new_tokens"].as<std::string>());
      }
      return result;
    }
    if (!verb.empty()) fail(ExitCode::kConfig, "there is no command {}; sft-dist --help lists them", verb);
    result.command = command_of(values);
    for (std::size_t i = 0; i < rest.size(); ++i) {
      if (rest[i].rfind("--", 0) != 0)
        fail(ExitCode::kConfig, "'{}' is not an option; give options as --key value", rest[i]);
      result.settings.push_back(read_setting(rest, i));
    }
  } catch (const po::error& error) {
    fail(ExitCode::kConfig, "command line: {}", error.what());
  }
  return result;
}

}  // namespace sft::config
