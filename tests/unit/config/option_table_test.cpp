// The table itself, and what is printed from it.
#include "config/option_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "config/hf_arguments.h"
#include "config/value.h"
#include "sft/base/file.h"
#include "support.h"

namespace sft::config {
namespace option_table_test {

TEST(OptionTable, NamesAreUniqueAndDoNotCollide) {
  std::set<std::string> names;
  for (const OptionRow& row : option_table()) EXPECT_TRUE(names.insert(row.name).second) << row.name;
  for (const Alias& alias : aliases()) EXPECT_TRUE(names.insert(alias.name).second) << alias.name;
  for (const HfArgument& argument : hf_arguments())
    EXPECT_TRUE(names.insert(argument.name).second) << argument.name;
}

TEST(OptionTable, EveryRowHasItsOwnFieldAndHelp) {
  Options options;
  std::set<const void*> fields;
  for (const OptionRow& row : option_table()) {
    const void* field =
        std::visit([](auto* pointer) { return static_cast<const void*>(pointer); }, row.slot(options));
    EXPECT_TRUE(fields.insert(field).second) << row.name;
    EXPECT_GE(row.help.size(), 8u) << row.name;
    EXPECT_FALSE(row.group.empty()) << row.name;
  }
}

TEST(OptionTable, AliasesLeadToOptionsAndRefusalsSayWhatToDo) {
  for (const Alias& alias : aliases()) EXPECT_NE(find_option(alias.option), nullptr) << alias.name;
  for (const HfArgument& argument : hf_arguments()) {
    EXPECT_TRUE(argument.any_value_is_harmless || argument.advice.size() > 8) << argument.name;
  }
}

// Every member of the option structs must have a row: one that has none could not be set.
TEST(OptionTable, HasARowForEveryField) {
  const std::string header =
      base::read_text(std::filesystem::path(SFT_SOURCE_DIR) / "include/sft/config/options.h");
  std::istringstream lines(header);
  std::size_t fields = 0;
  bool in_struct = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("struct ")) in_struct = !line.starts_with("struct Options ");
    if (line.starts_with("};")) in_struct = false;
    const std::string declaration = line.substr(0, line.find("//"));
    if (!in_struct || declaration.find(';') == std::string::npos) continue;
    fields += 1 + static_cast<std::size_t>(std::count(declaration.begin(), declaration.end(), ','));
  }
  EXPECT_EQ(option_table().size(), fields);
}

TEST(OptionTable, DefaultsAreValid) {
  EXPECT_NO_THROW(validate(Options{}));
}

// TRL's and transformers' defaults, from the installed versions; what differs here is named with the reason.
TEST(OptionTable, DefaultsAreThoseOfTrl) {
  const std::set<std::string> ours{
      "activation_checkpointing",  // off: the user decides what memory to trade
      "gradient_checkpointing",
      "bf16",                   // off: fp32 is the reference
      "log_level",              // `passive` leaves it to Python's logging
      "output_dir",             // TRL's is derived from the model's name
      "eval_split",             // nothing is evaluated unless asked for
      "dataset_test_split",     // the same under TRL's name
      "lr_scheduler_kwargs",    // None
      "resume_from_checkpoint"  // None
  };
  std::ifstream golden(std::filesystem::path(SFT_SOURCE_DIR) / "tests/golden/hf_argument_names.txt");
  const Options defaults;
  int compared = 0;
  for (std::string line; std::getline(golden, line);) {
    const std::string name = line.substr(0, line.find('\t')), value = line.substr(line.find('\t') + 1);
    const Alias* alias = find_alias(name);
    const OptionRow* row = find_option(alias ? alias->option : name);
    if (!row || value.empty() || ours.contains(name) || (alias && alias->convert)) continue;
    EXPECT_EQ(nlohmann::json::parse(json_value(*row, defaults)), nlohmann::json::parse(value)) << name;
    ++compared;
  }
  EXPECT_GE(compared, 38);
}

TEST(Help, NamesEveryOptionAndFitsInAHundredColumns) {
  const std::string help = help_text();
  for (const OptionRow& row : option_table())
    EXPECT_NE(help.find("\n  " + row.name + " = "), std::string::npos) << row.name;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(Documentation, IsWhatTheTableSays) {
  const auto path = std::filesystem::path(SFT_SOURCE_DIR) / "docs/options.md";
  EXPECT_EQ(base::read_text(path), options_markdown())
      << "docs/options.md is stale: build/release/sft-dist --print-options-doc > docs/options.md";
}

}  // namespace option_table_test
}  // namespace sft::config
