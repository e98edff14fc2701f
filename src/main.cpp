// sft-dist: parse, environment, command, exit code.

#include <c10/util/Exception.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <limits>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/fatal_signal.h"
#include "sft/base/file.h"
#include "sft/base/log.h"
#include "sft/base/watchdog.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/config/parse.h"
#include "sft/data/dataset.h"
#include "sft/data/inspector.h"
#include "sft/parallel/environment.h"
#include "sft/train/agree.h"
#include "sft/train/bench.h"
#include "sft/train/check_options.h"
#include "sft/train/doctor.h"
#include "sft/train/export.h"
#include "sft/train/generate.h"
#include "sft/train/inspect_step.h"
#include "sft/train/run.h"

namespace {

using sft::base::Error;
using sft::base::ExitCode;
using sft::base::SeenBy;
namespace config = sft::config;

std::vector<config::IniText> read_ini_files(const config::CommandLine& command_line) {
  std::vector<config::IniText> texts;
  for (const std::string& path : command_line.ini_texts_from) {
    if (!std::filesystem::is_regular_file(path)) {
      const bool exists = std::filesystem::exists(path);
      throw Error(ExitCode::kConfig,
                  fmt::format("--args {}: {}", path, exists ? "is no regular file" : "there is no such file"),
                  SeenBy::kAllRanks);
    }
    texts.push_back({path, sft::base::read_text(path, int64_t{1} << 20)});
  }
  return texts;
}

config::ParsedOptions read_options(const config::CommandLine& command_line) {
  return config::parse_options(read_ini_files(command_line), command_line.settings);
}

// Rank 0 reads the files; every rank parses the same text and so comes to the same options or the same error.
config::ParsedOptions read_options_once(const config::CommandLine& command_line,
                                        sft::parallel::Communicator& comm) {
  std::vector<config::IniText> texts;
  sft::train::on_rank_0(comm, [&] { texts = read_ini_files(command_line); });
  const std::string count = comm.broadcast_bytes(std::to_string(texts.size()), 0);
  texts.resize(std::stoul(count));
  for (config::IniText& text : texts) {
    text.name = comm.broadcast_bytes(text.name, 0);
    text.text = comm.broadcast_bytes(text.text, 0);
  }
  try {
    config::ParsedOptions parsed = config::parse_options(texts, command_line.settings);
    sft::train::check_options(parsed.options);
    return parsed;
  } catch (const Error& error) {
    throw Error(error.code(), error.what(), SeenBy::kAllRanks);
  }
}

// Each of them, whatever the others are like. The code is that of the first one that is not good.
ExitCode verify(const std::vector<std::string>& operands) {
  ExitCode code = ExitCode::kDone;
  for (const std::string& path : operands) {
    try {
      if (std::filesystem::is_directory(path)) {
        sft::checkpoint::verify_directory(path);
      } else {
        sft::data::verify_dataset(path);
      }
      fmt::print("{}: ok\n", path);
    } catch (const Error& error) {
      sft::log::error("{}", error.what());
      if (code == ExitCode::kDone) code = error.code();
    } catch (const std::exception& error) {
      sft::log::error("{}: {}", path, error.what());
      if (code == ExitCode::kDone) code = sft::train::code_of(error);
    }
  }
  return code;
}

std::string inspect_step(const config::CommandLine& command_line) {
  const std::string& ranks = command_line.operands[1];
  return sft::train::inspect_step(
      read_options(command_line).options, config::parse_integer(command_line.operands[0], "--step"),
      ranks.empty() ? std::nullopt : std::optional(config::parse_integer(ranks, "--ranks")));
}

// Commands that need no other rank.
ExitCode run_local(const config::CommandLine& command_line) {
  switch (command_line.command) {
    case config::Command::kHelp:
      fmt::print("{}", config::help_text());
      break;
    case config::Command::kVersion:
      fmt::print("sft-dist {}\n", SFT_VERSION);
      break;
    case config::Command::kVerify:
      return verify(command_line.operands);
    case config::Command::kPrintOptionsDoc:
      fmt::print("{}", config::options_markdown());
      break;
    case config::Command::kPrintConfig:
      fmt::print("{}", config::to_ini(read_options(command_line).options));
      break;
    case config::Command::kPrintConfigJson:
      fmt::print("{}\n", config::to_json(read_options(command_line).options));
      break;
    case config::Command::kInspectStep:
      fmt::print("{}", inspect_step(command_line));
      break;
    case config::Command::kCheckConfig: {
      const config::ParsedOptions parsed = read_options(command_line);
      sft::train::check_options(parsed.options);
      for (const std::string& notice : parsed.notices) sft::log::info("note: {}", notice);
      fmt::print("the configuration is valid\n");
      break;
    }
    default:
      throw Error(ExitCode::kInternal, "not a local command");
  }
  return ExitCode::kDone;
}

struct Failure {
  ExitCode code;
  std::string message;
  SeenBy seen_by = SeenBy::kThisRank;
};

// Calls action; an exception becomes a Failure.
template <typename Action>
std::optional<Failure> failure_of(Action&& action) {
  try {
    action();
    return std::nullopt;
  } catch (const Error& error) {
    return Failure{error.code(), error.what(), error.seen_by()};
  } catch (const c10::OutOfMemoryError& error) {
    return Failure{ExitCode::kOutOfMemory, fmt::format("out of memory: {}", error.what_without_backtrace())};
  } catch (const std::bad_alloc&) {
    return Failure{ExitCode::kOutOfMemory,
                   "out of memory; use a smaller per_device_train_batch_size or max_length, or "
                   "gradient_checkpointing = true"};
  } catch (const c10::Error& error) {
    return Failure{sft::train::code_of(error), error.what_without_backtrace()};
  } catch (const std::system_error& error) {
    const ExitCode code = sft::train::code_of(error);
    const char* hint =
        code == ExitCode::kOutOfMemory ? ": no memory for a thread, or too many of them (ulimit -v, -u)" : "";
    return Failure{code, fmt::format("{}{}", error.what(), hint)};
  } catch (const std::exception& error) {
    return Failure{sft::train::code_of(error), error.what()};
  }
}

ExitCode generate(const config::CommandLine& command_line, sft::parallel::MpiEnv& env) {
  std::vector<int64_t> ids;
  std::istringstream text(command_line.operands[1]);
  for (std::string id; std::getline(text, id, ',');) ids.push_back(sft::config::parse_integer(id, "--ids"));
  if (ids.empty()) throw Error(ExitCode::kConfig, "--ids is empty");
  const auto comm = env.create_communicator("auto", "cpu");
  sft::parallel::configure_threads(0, env.topology());
  const auto continuation = sft::train::generate_greedily(
      command_line.operands[0], ids, sft::config::parse_integer(command_line.operands[2], "--max_new_tokens"),
      *comm);
  fmt::print("{}\n", fmt::join(continuation, ","));
  return ExitCode::kDone;
}

// The limit of the start as the command line gives it: files are read only with the other ranks, and MPI's start
// can hang. What is wrong with the settings is reported when all options are parsed.
double start_seconds(const config::CommandLine& command_line) {
  const config::RuntimeOptions given = config::parse_settings_leniently(command_line.settings).runtime;
  return given.watchdog ? given.watchdog_start_seconds : std::numeric_limits<double>::infinity();
}

// Before MPI's start as the launcher has it.
std::string& own_name() {
  static std::string name = [] {
    for (const char* variable : {"OMPI_COMM_WORLD_RANK", "SLURM_PROCID"}) {
      if (const char* rank = std::getenv(variable)) return fmt::format("rank {}", rank);
    }
    return fmt::format("process {}", ::getpid());
  }();
  return name;
}

// An exception that left a thread: the same message and code as one that comes to main(). The launcher ends
// the others.
[[noreturn]] void end_by_exception() {
  const std::optional<Failure> failure = failure_of([] {
    if (const std::exception_ptr current = std::current_exception()) std::rethrow_exception(current);
  });
  if (!failure) std::abort();
  fmt::print(stderr, "error: [{}] in a thread: {}\n", own_name(), failure->message);
  std::_Exit(static_cast<int>(failure->code));
}

// All ranks end with the same code. As soon as the first has ended with one other than 0, srun --kill-on-bad-exit sends
// SIGTERM to those still on their way out; dying of it they would replace that code.
int leave_together(sft::parallel::MpiEnv& env, ExitCode code) {
  std::signal(SIGTERM, SIG_IGN);
  env.finish_ok();
  return static_cast<int>(code);
}

// Commands that need MPI: training, its preparation, and whatever runs a model.
int run_with_mpi(const config::CommandLine& command_line, int& argc, char**& argv) {
  sft::base::name_fatal_signals(own_name());
  std::optional<sft::base::Watchdog> watchdog;
  const bool is_run = command_line.command == config::Command::kTrain;
  const bool is_doctor = command_line.command == config::Command::kDoctor;
  if (is_run || is_doctor) watchdog.emplace(start_seconds(command_line));
  if (is_run || is_doctor || command_line.command == config::Command::kBench) sft::data::start_inspector();
  sft::parallel::MpiEnv env(&argc, &argv);
  const sft::parallel::Topology& topology = env.topology();
  own_name() = fmt::format("rank {} {}", topology.rank, topology.host);
  sft::base::name_fatal_signals(own_name());
  ExitCode code = ExitCode::kDone;
  const std::optional<Failure> failure = failure_of([&] {
    if (command_line.command == config::Command::kGenerate) {
      code = generate(command_line, env);
      return;
    }
    if (command_line.command == config::Command::kExport) {
      const auto comm = env.create_communicator("auto", "cpu");
      sft::parallel::configure_threads(0, topology);
      sft::train::export_merged(command_line.operands[0], command_line.operands[1], *comm);
      return;
    }
    const auto control = env.create_communicator("auto", "cpu");
    const config::ParsedOptions parsed = read_options_once(command_line, *control);
    sft::log::init(sft::log::level_from_name(parsed.options.logging.log_level), topology.rank,
                   topology.world_size, topology.host);
    if (command_line.command == config::Command::kBench) {
      sft::train::run_bench(parsed, env,
                            {.steps = config::parse_integer(command_line.operands[0], "--steps"),
                             .json = command_line.operands[1] == "json"});
      return;
    }
    code = is_run ? sft::train::run_training(parsed, env, *watchdog)
                  : sft::train::examine_allocation(parsed.options, env, *control);
  });
  if (!failure) return leave_together(env, code);
  if (failure->seen_by == SeenBy::kAllRanks) {
    if (topology.rank == 0) sft::log::error("{}", failure->message);
    return leave_together(env, failure->code);
  }
  sft::log::error("[{}] {}", own_name(), failure->message);
  env.abort(failure->code);
}

}  // namespace

int main(int argc, char** argv) {
  std::set_terminate(end_by_exception);
  int code = 0;
  const std::optional<Failure> failure = failure_of([&] {
    const config::CommandLine command_line = config::parse_command_line(argc, argv);
    const auto command = command_line.command;
    const bool needs_mpi = command == config::Command::kTrain || command == config::Command::kGenerate ||
                           command == config::Command::kExport || command == config::Command::kDoctor ||
                           command == config::Command::kBench;
    code = needs_mpi ? run_with_mpi(command_line, argc, argv) : static_cast<int>(run_local(command_line));
  });
  if (failure) {
    sft::log::error("{}", failure->message);
    return static_cast<int>(failure->code);
  }
  return code;
}
