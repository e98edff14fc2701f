#include "preparation.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/hash.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/config/path_list.h"

namespace sft::train {
namespace {

using base::ExitCode;
using base::fail;
using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kMaxTextBytes = int64_t{64} << 20;

class Preparation {
 public:
  Preparation(std::string path, const std::string& config)
      : path_(std::move(path)), prepared_(base::parse_json(config, path_ + ", prepare_config")) {}

  // absent: what a file means that does not name the key; option: what a run calls it, where that is not the key.
  void check_same(const char* key, const std::string& wanted, const char* absent = "", const char* option = nullptr) const {
    const std::string found = text_of(key, absent);
    if (found != wanted) refuse(option == nullptr ? key : option, found, wanted);
  }

  // Of paths only the last component counts: a data folder may be moved.
  void check_same_path(const char* key, const std::string& wanted) const {
    const std::string found = text_of(key, "");
    if (last_component(found) != last_component(wanted)) refuse(key, found, wanted);
  }

  // The same of the parts of a mixture.
  void check_same_paths(const char* key, const std::string& wanted) const {
    const std::string found = text_of(key, "");
    if (last_components(found) != last_components(wanted)) refuse(key, found, wanted);
  }

  // The same where both are known: what this run's tokenizer says.
  void check_same_token(const char* key, const std::optional<std::string>& wanted, const fs::path& folder) const {
    const std::string found = text_of(key, "");
    if (found.empty() || !wanted || found == *wanted) return;
    fail(ExitCode::kInvalidData,
         "{} was prepared with the end-of-sequence token '{}', and that of the tokenizer in {} is '{}'; run sft-prepare "
         "again with this run.ini",
         path_, log::printable(found), folder.string(), log::printable(*wanted));
  }

  // The key holds a hash of `text`, which `what` names. Not checked where either is absent.
  void check_hash(const char* key, const std::optional<std::string>& text, const std::string& what) const {
    const std::string found = text_of(key, "");
    if (found.empty() || !text || base::sha256_hex(*text) == found) return;
    fail(ExitCode::kInvalidData,
         "{} was prepared with {} as it was then, and its contents have changed; run sft-prepare again with "
         "this run.ini",
         path_, what);
  }

 private:
  // Of "corpus/" and "." too the folder's name.
  static std::string last_component(const std::string& text) {
    if (text.empty()) return "";
    const fs::path path = fs::absolute(text).lexically_normal();
    return (path.has_filename() ? path : path.parent_path()).filename().string();
  }

  static std::vector<std::pair<std::string, std::optional<double>>> last_components(const std::string& text) {
    std::vector<std::pair<std::string, std::optional<double>>> result;
    for (const config::ListedPath& part : config::mixture_paths(text))
      result.emplace_back(last_component(part.path), part.fraction);
    return result;
  }

  std::string text_of(const char* key, const char* absent) const {
    if (!prepared_.contains(key)) return absent;
    const json& value = prepared_[key];
    return value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
  }

  [[noreturn]] void refuse(const char* key, const std::string& found, const std::string& wanted) const {
    const auto shown = [](const std::string& text) {
      return text.empty() ? std::string("unset") : fmt::format("'{}'", log::printable(text));
    };
    fail(ExitCode::kInvalidData,
         "{} was prepared with {} = {}, this run says {}; run sft-prepare again with this run.ini", path_,
         key, shown(found), shown(wanted));
  }

  std::string path_;
  json prepared_;
};

std::optional<std::string> text_if_there(const fs::path& file) {
  if (file.empty() || !fs::is_regular_file(file)) return std::nullopt;
  return base::read_text(file, kMaxTextBytes);
}

// As Python reads text: every end of line is a line feed.
std::string with_line_feeds(const std::string& text) {
  std::string result;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool before_line_feed = at + 1 < text.size() && text[at + 1] == '\n';
    if (text[at] != '\r') {
      result += text[at];
    } else if (!before_line_feed) {
      result += '\n';
    }
  }
  return result;
}

json tokenizer_config(const fs::path& folder) {
  const fs::path file = folder / "tokenizer_config.json";
  const auto text = text_if_there(file);
  json config = text ? base::parse_json(*text, file.string()) : json();
  return config.is_object() ? config : json::object();
}

// As tokenizer_config.json has it.
std::optional<std::string> eos_token(const fs::path& tokenizer_folder) {
  json token = tokenizer_config(tokenizer_folder).value("eos_token", json());
  if (token.is_object()) token = token.value("content", json());
  return token.is_string() ? std::optional(token.get<std::string>()) : std::nullopt;
}

// The chat template that this run's options lead to, where a file of this machine holds it.
std::optional<std::string> chat_template(const config::PrepareOptions& prepare,
                                         const fs::path& tokenizer_folder) {
  const fs::path path = prepare.chat_template_path;
  const bool is_template = path.extension() == ".jinja" || path.extension() == ".j2";
  const fs::path folder = path.empty() ? tokenizer_folder : path;
  if (const auto text = text_if_there(is_template ? path : folder / "chat_template.jinja"))
    return with_line_feeds(*text);
  if (is_template) return std::nullopt;
  const json chosen = tokenizer_config(folder).value("chat_template", json());
  return chosen.is_string() ? std::optional(chosen.get<std::string>()) : std::nullopt;
}

std::string evaluation_file(const std::string& eval_file, const std::string& name) {
  for (const config::ListedPath& set : config::named_paths(eval_file)) {
    if (set.name == name) return set.path;
  }
  return "";
}

void check_rows(const Preparation& prepared, const config::PrepareOptions& prepare,
                const fs::path& tokenizer_folder) {
  const auto flag = [](const std::optional<bool>& value) { return !value ? "" : *value ? "true" : "false"; };
  prepared.check_same("dataset_text_field", prepare.dataset_text_field);
  prepared.check_same_path("formatting_func", prepare.formatting_func);
  prepared.check_same("completion_only_loss", flag(prepare.completion_only_loss));
  prepared.check_same("assistant_only_loss", flag(prepare.assistant_only_loss), "false");
  prepared.check_same_path("chat_template_path", prepare.chat_template_path);
  prepared.check_same("eos_token", prepare.eos_token);
  if (prepare.eos_token.empty() && prepare.chat_template_path.empty())
    prepared.check_same_token("tokenizer_eos_token", eos_token(tokenizer_folder), tokenizer_folder);
  const std::string& function = prepare.formatting_func;
  prepared.check_hash("formatting_func_sha256", text_if_there(function.substr(0, function.rfind(':'))),
                      "formatting_func = " + function);
  prepared.check_hash("chat_template_sha256", chat_template(prepare, tokenizer_folder), "the chat template");
}

}  // namespace

void check_preparation(const DatasetRole& role, const std::string& path, const config::Options& options,
                       const data::DatasetInfo& info, const fs::path& tokenizer_folder) {
  const config::PrepareOptions& prepare = options.prepare;
  const Preparation prepared(path, info.prepare_config);
  check_rows(prepared, prepare, tokenizer_folder);
  if (prepare.train_file.empty() && prepare.dataset_name.empty()) return;  // nothing is said of the source
  const bool is_split = prepare.test_split_size.has_value();
  const bool has_source = !role.is_evaluation || is_split || !prepare.eval_file.empty() ||
                          (!prepare.dataset_name.empty() && !prepare.eval_split.empty());
  if (!has_source) return;  // a file that was prepared by another run
  prepared.check_same("max_rows", prepare.max_rows ? std::to_string(*prepare.max_rows) : "");
  prepared.check_same("test_split_size", is_split ? json(*prepare.test_split_size).dump() : "");
  if (is_split) {
    prepared.check_same("split_seed", std::to_string(options.data.seed));
    prepared.check_same("part", role.is_evaluation ? "eval" : "train");
  }
  const bool from_training_rows = !role.is_evaluation || is_split;
  const std::string file =
      from_training_rows ? prepare.train_file : evaluation_file(prepare.eval_file, role.name);
  prepared.check_same_paths("source_file", file);
  if (!file.empty()) return;
  prepared.check_same("dataset_name", prepare.dataset_name);
  if (from_training_rows) {
    prepared.check_same("dataset_split", prepare.dataset_split);
  } else {
    prepared.check_same("dataset_split", prepare.eval_split, "", "eval_split");
  }
}

}  // namespace sft::train
