// The effective configuration, and the files in configs/.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "config/option_table.h"
#include "config/value.h"
#include "sft/base/file.h"
#include "support.h"
#include "support/temp_dir.h"

namespace sft::config {
namespace print_test {

namespace fs = std::filesystem;

// A value that is not the default, and valid.
std::string other_value(const OptionRow& row, Options& options) {
  return std::visit(
      [&](auto* field) -> std::string {
        using T = std::remove_pointer_t<decltype(field)>;
        const Rule& rule = row.rule;
        if constexpr (std::is_same_v<T, bool>) return *field ? "false" : "true";
        if constexpr (std::is_same_v<T, std::optional<bool>>) return "false";
        if constexpr (std::is_same_v<T, std::string>) {
          for (const std::string& choice : rule.choices) {
            if (choice != *field) return choice;
          }
          if (row.name == "lr_scheduler_kwargs") return R"({"num_cycles": 2, "x": "a # b"})";
          if (row.name == "optim_args") return "momentum=0.5, nesterov=true";
          if (row.name == "max_shard_size") return "100MB";
          if (rule.allowed == "names separated by commas") return "a_proj,mlp.b";
          if (rule.path == PathKind::kFunction) return "/some place/f.py:to_text";
          if (rule.path != PathKind::kNone) return "/some place/it's #1";
          return " \"odd\\ # text\n'None' ";
        }
        if (rule.allowed == "in [0, 1)") return "0.123456789012345678";
        if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::optional<double>>) return "4";
        return row.name == "lora_r" ? "8" : "16";
      },
      row.slot(options));
}

Options all_different() {
  Options options;
  for (const OptionRow& row : option_table()) {
    const std::string before = plain_value(row, options);
    EXPECT_EQ(set_value(row, {other_value(row, options), true}, options), std::nullopt) << row.name;
    EXPECT_NE(plain_value(row, options), before) << row.name;
  }
  // Not together.
  options.prepare.dataset_name.clear();
  options.prepare.assistant_only_loss = false;
  options.prepare.test_split_size.reset();
  options.loss.label_smoothing_factor = 0;
  options.runtime.trl_compat = false;
  options.save.overwrite_output_dir = false;
  options.save.save_strategy = "best";
  return options;
}

void expect_same(const Options& a, const Options& b) {
  for (const OptionRow& row : option_table()) {
    Options left = a, right = b;
    const Slot x = row.slot(left), y = row.slot(right);
    ASSERT_EQ(x.index(), y.index());
    std::visit([&](auto* field) { EXPECT_EQ(*field, *std::get<decltype(field)>(y)) << row.name; }, x);
  }
}

TEST(ToIni, IsReadBackToTheSameOptions) {
  const Options options = all_different();
  const ParsedOptions parsed = parse_text(to_ini(options));
  expect_same(parsed.options, options);
  EXPECT_EQ(to_ini(parsed.options), to_ini(options));
}

TEST(ToIni, DefaultsAreReadBackToo) {
  Options options;
  options.save.output_dir = fs::absolute(options.save.output_dir).string();
  expect_same(parse_text(to_ini(Options{})).options, options);
}

TEST(ToJson, HoldsTheSameValuesWithTheirTypes) {
  const Options options = all_different();
  const auto json = nlohmann::json::parse(to_json(options));
  ASSERT_EQ(json.size(), option_table().size());
  Options read;
  for (const OptionRow& row : option_table()) {
    const auto& value = json.at(row.name);
    const RawValue raw = value.is_string() ? RawValue{value.get<std::string>(), true}
                                           : RawValue{value.is_null() ? "None" : value.dump(), false};
    EXPECT_EQ(set_value(row, raw, read), std::nullopt) << row.name;
  }
  expect_same(read, options);

  const auto defaults = nlohmann::json::parse(to_json(Options{}));
  EXPECT_EQ(defaults.at("max_length"), 1024);
  EXPECT_EQ(defaults.at("learning_rate"), 2e-5);
  EXPECT_EQ(defaults.at("bf16"), false);
  EXPECT_EQ(defaults.at("eval_steps"), nullptr);
  EXPECT_EQ(defaults.at("train_file"), nullptr);
  EXPECT_EQ(defaults.at("optim"), "adamw_torch_fused");
}

class WorkingDirectory {
 public:
  explicit WorkingDirectory(const fs::path& path) : before_(fs::current_path()) { fs::current_path(path); }
  ~WorkingDirectory() { fs::current_path(before_); }

 private:
  fs::path before_;
};

TEST(ToIni, MakesPathsAbsoluteAndLeavesModelIds) {
  const test::TempDir temp;
  const WorkingDirectory inside(temp.path());
  const std::string here = fs::current_path().string();
  fs::create_directories("models/tiny");
  const auto effective = [&](const std::string& text) {
    return parse_text(to_ini(parse_text(text).options)).options;
  };

  EXPECT_EQ(effective("output_dir = out").save.output_dir, here + "/out");
  EXPECT_EQ(effective("train_dataset = ./a/../t.h5").data.train_dataset, here + "/t.h5");
  EXPECT_EQ(effective("train_file = /data/t.jsonl").prepare.train_file, "/data/t.jsonl");
  EXPECT_EQ(effective("formatting_func = f.py:g").prepare.formatting_func, here + "/f.py:g");
  EXPECT_EQ(effective("model_name_or_path = models/tiny").model.model_name_or_path, here + "/models/tiny");
  EXPECT_EQ(effective("model_name_or_path = facebook/opt-350m").model.model_name_or_path,
            "facebook/opt-350m");
  EXPECT_EQ(effective("model_name_or_path = ./absent").model.model_name_or_path, here + "/absent");
  EXPECT_EQ(effective("dataset_name = imdb").prepare.dataset_name, "imdb");
  EXPECT_EQ(effective("resume_from_checkpoint = true").save.resume_from_checkpoint, "true");
  EXPECT_EQ(effective("resume_from_checkpoint = false").save.resume_from_checkpoint, "");
  EXPECT_EQ(effective("resume_from_checkpoint = out/checkpoint-3").save.resume_from_checkpoint,
            here + "/out/checkpoint-3");
}

TEST(Configs, AreValidForTraining) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(SFT_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".ini") continue;
    EXPECT_NO_THROW({
      const auto parsed =
          parse_options({{entry.path().filename().string(), base::read_text(entry.path())}}, {});
      validate_for_training(parsed.options);
    }) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 5);
}

TEST(Configs, TheArticlesNamesAreUnderstood) {
  const auto text = base::read_text(fs::path(SFT_SOURCE_DIR) / "configs/opt-350m-imdb.ini");
  const Options options = parse_text(text).options;
  EXPECT_EQ(options.model.model_name_or_path, "facebook/opt-350m");
  EXPECT_EQ(options.eval.eval_strategy, "steps");
  EXPECT_EQ(options.data.max_length, 512);
}

}  // namespace print_test
}  // namespace sft::config
