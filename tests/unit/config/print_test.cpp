#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "config/option_table.h"
#include "sft/config/parse.h"

namespace sft::config {
namespace {

std::string file_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A value other than the default for every option.
std::string other_value(const OptionRow& row) {
  if (!row.allowed.empty())
    return row.allowed.back() == row.default_text ? row.allowed.front() : row.allowed.back();
  if (row.type.rfind("bool", 0) == 0) return row.default_text == "true" ? "false" : "true";
  if (row.type.rfind("int", 0) == 0) return "12";
  if (row.type.rfind("float", 0) == 0) return "0.1234567890123";
  return row.name == "lr_scheduler_kwargs" ? R"({"num_cycles": 2})" : "/some where/#1";
}

TEST(Table, NamesAreUniqueAndHaveHelp) {
  std::set<std::string> names;
  for (const OptionRow& row : option_table()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_GT(row.help.size(), 5U) << row.name;
  }
  for (const Alias& alias : aliases()) {
    EXPECT_TRUE(names.insert(alias.name).second) << alias.name;
    EXPECT_NE(find_option(alias.option), nullptr) << alias.option;
  }
}

TEST(Print, EffectiveIniParsesBackToTheSameOptions) {
  Options options;
  for (const OptionRow& row : option_table())
    EXPECT_EQ(row.set(options, other_value(row)).value_or(""), "") << row.name;
  for (const OptionRow& row : option_table()) EXPECT_NE(row.get(options), row.default_text) << row.name;
  // Contradictions between these values are not the point here.
  options.runtime.device = "cuda";
  options.save.overwrite_output_dir = false;
  options.prepare.dataset_name.clear();
  options.batch.global_batch_size = 24;
  const std::string ini = to_ini(options);
  const Options back = parse_options({{"effective.ini", ini}}, {}).options;
  EXPECT_EQ(to_ini(back), ini);
  EXPECT_EQ(to_json(back), to_json(options));
}

TEST(Print, PathsBecomeAbsoluteAndModelIdsStay) {
  const Options options =
      parse_options({{"x", "model_name_or_path = org/no-such-model\ntrain_dataset = data/a.h5\n"}}, {})
          .options;
  const std::string ini = to_ini(options);
  EXPECT_NE(ini.find("model_name_or_path = org/no-such-model\n"), std::string::npos);
  EXPECT_NE(ini.find("train_dataset = " + (std::filesystem::current_path() / "data/a.h5").string()),
            std::string::npos);
}

TEST(Print, JsonHasEveryOptionWithItsType) {
  const nlohmann::json object = nlohmann::json::parse(to_json(Options{}));
  EXPECT_EQ(object.size(), option_table().size());
  EXPECT_EQ(object["learning_rate"], 2e-5);
  EXPECT_EQ(object["max_length"], 1024);
  EXPECT_TRUE(object["save_total_limit"].is_null());
  EXPECT_TRUE(object["train_dataset"].is_null());
  EXPECT_EQ(object["bf16"], false);
}

TEST(Print, HelpFitsAHundredColumns) {
  std::istringstream lines(help_text());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 100U) << line;
  }
}

TEST(Print, DocumentationIsUpToDate) {
  EXPECT_EQ(file_text(SFT_SOURCE_DIR "/docs/options.md"), options_markdown())
      << "run: sft-dist --print-options-doc > docs/options.md";
}

TEST(Configs, EveryExampleIsValid) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SFT_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".ini") continue;
    ++count;
    EXPECT_NO_THROW(
        validate_for_training(parse_options({{entry.path().string(), file_text(entry.path())}}, {}).options))
        << entry.path();
  }
  EXPECT_GE(count, 4);
}

}  // namespace
}  // namespace sft::config
