// From argv and run.ini to validated options, and back.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sft/config/options.h"

namespace sft::config {

struct ParsedOptions {
  Options options;
  std::vector<std::string> notices;  // for people: aliases used, Hugging Face options that have no effect here
};

// What the command line asks for besides training.
enum class Command {
  kTrain,
  kHelp,
  kVersion,
  kPrintConfig,
  kPrintConfigJson,
  kPrintOptionsDoc,
  kCheckConfig,
  kVerify,
  kGenerate,
  kExport,
  kInspectStep,
  kDoctor,
  kBench
};

struct CommandLine {
  Command command = Command::kTrain;
  std::vector<std::string> ini_texts_from;  // --args files, in order
  std::vector<std::string> settings;        // "key=value" of --key value / --key=value, in order; they win over files
  std::vector<std::string> operands;        // verify: paths; generate: model folder, comma-separated ids, max_new_tokens;
                                            // export: adapter folder, output folder; inspect-step: step, ranks or ""
                                            // bench: steps, "table" | "json"
};

// Local. Throws Error(kConfig) for what it does not understand.
CommandLine parse_command_line(int argc, const char* const* argv);

// Local. ini_texts: contents of the --args files with their names. Throws Error(kConfig) listing every problem found,
// each naming the key, file and line, and the nearest known name or the allowed values.
struct IniText {
  std::string name, text;
};
ParsedOptions parse_options(const std::vector<IniText>& ini_texts, const std::vector<std::string>& settings);

// Local. The defaults with what can be read of these settings: for what must be known before any file is read.
Options parse_settings_leniently(const std::vector<std::string>& settings);

// Ranges, and contradictions between options: those that need no file, model or world size. parse_options
// makes the same checks. Throws Error(kConfig) listing every problem.
void validate(const Options& options);
// What training needs to be set. Throws Error(kConfig).
void validate_for_training(const Options& options);

std::string help_text();                               // --help, grouped
std::string options_markdown();                        // docs/options.md
std::string to_ini(const Options& options);            // effective configuration with absolute paths; parses back to the same options
std::string to_json(const Options& options);           // the same as a JSON object {name: value}

// A whole number given to a command. Error(kConfig) naming `what`.
int64_t parse_integer(const std::string& text, const std::string& what);

// A *_steps option as whole steps: value >= 1 itself, a fraction ceil(value * max_steps), as transformers' TrainerState.compute_steps.
int64_t resolve_steps(double value, int64_t max_steps);

// metric_for_best_model with its default; empty: none is followed.
std::string metric_for_best_model(const BestOptions& options);

}  // namespace sft::config
