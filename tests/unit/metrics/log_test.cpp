#include "sft/metrics/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "metrics/trainer_state.h"
#include "sft/base/error.h"
#include "support/temp_dir.h"

namespace sft::metrics {
namespace log_test {

using nlohmann::json;

LogOptions options_in(const std::filesystem::path& folder) {
  LogOptions options;
  options.output_dir = folder;
  options.max_steps = 10;
  return options;
}

std::vector<json> lines_of(const std::filesystem::path& folder) {
  std::vector<json> lines;
  std::istringstream text(test::read_file(folder / "trainer_log.jsonl"));
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(TrainLog, LinesKeepEveryBitAndTheirOrder) {
  const test::TempDir folder;
  const double loss = 3.9128471283747281, tiny = std::numeric_limits<double>::denorm_min();
  const auto log = TrainLog::open(options_in(folder.path()));
  log->entry("train", 3, 1.0 / 3.0,
             {{"loss", loss}, {"grad_norm", tiny}, {"learning_rate", 0.1}, {"num_tokens", 4e15}});
  const json line = lines_of(folder.path()).at(0);
  EXPECT_EQ(line["event"], "train");
  EXPECT_EQ(line["step"], 3);
  EXPECT_EQ(line["epoch"].get<double>(), 1.0 / 3.0);
  EXPECT_EQ(line["loss"].get<double>(), loss);
  EXPECT_EQ(line["grad_norm"].get<double>(), tiny);
  EXPECT_EQ(line["num_tokens"].get<int64_t>(), 4'000'000'000'000'000);
  EXPECT_GT(line["time"].get<double>(), 1.7e9);
  const std::string text = test::read_file(folder / "trainer_log.jsonl");
  EXPECT_LT(text.find("\"event\""), text.find("\"step\""));
  EXPECT_LT(text.find("\"loss\""), text.find("\"grad_norm\""));
  EXPECT_NE(text.find("\"learning_rate\":0.1,"), std::string::npos) << text;
}

TEST(TrainLog, NonFiniteValuesAreStrings) {
  const test::TempDir folder;
  const double infinity = std::numeric_limits<double>::infinity();
  const auto log = TrainLog::open(options_in(folder.path()));
  log->entry("train", 1, 0,
             {{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}, {"num_x", std::nan("")}});
  const json line = lines_of(folder.path()).at(0);
  EXPECT_EQ(line["a"], "NaN");
  EXPECT_EQ(line["b"], "Infinity");
  EXPECT_EQ(line["c"], "-Infinity");
  EXPECT_EQ(line["num_x"], "NaN");
}

TEST(TrainLog, EventsCarryTheirDetails) {
  const test::TempDir folder;
  const auto log = TrainLog::open(options_in(folder.path()));
  log->event("skipped", 7, R"({"rows": [4, 5], "step": 99})");
  const json line = lines_of(folder.path()).at(0);
  EXPECT_EQ(line["event"], "skipped");
  EXPECT_EQ(line["step"], 7);
  EXPECT_EQ(line["rows"], json({4, 5}));
  EXPECT_THROW(log->event("skipped", 7, "rows"), base::Error);
  EXPECT_THROW(log->event("skipped", 7, "[1]"), base::Error);
  EXPECT_EQ(json::parse(log->trainer_state({7, 0, 0, 0}))["log_history"].size(), 0U);
}

TEST(TrainLog, AppendsAndRemovesALineThatWasCutShort) {
  const test::TempDir folder;
  TrainLog::open(options_in(folder.path()))->entry("train", 1, 0, {{"loss", 1}});
  const std::string whole = test::read_file(folder / "trainer_log.jsonl");
  test::write_file(folder / "trainer_log.jsonl", whole + R"({"event": "tra)");
  TrainLog::open(options_in(folder.path()))->entry("train", 2, 0, {{"loss", 2}});
  const auto lines = lines_of(folder.path());
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["step"], 1);
  EXPECT_EQ(lines[1]["step"], 2);
}

TEST(TrainLog, OtherRanksWriteNothing) {
  const test::TempDir folder;
  LogOptions options = options_in(folder.path());
  options.rank = 1;
  options.tensorboard = true;
  options.show_progress_bar = true;
  testing::internal::CaptureStdout();
  const auto log = TrainLog::open(options);
  log->table("title", {{"key", "value"}});
  log->progress(1, 1, 1, 1);
  log->entry("train", 1, 0, {{"loss", 1}});
  log->event("checkpoint", 1, "{}");
  log->flush();
  EXPECT_EQ(log->trainer_state({1, 0, 0, 0}), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TrainLog, FullDiskIsWarnedAboutOnce) {
  const test::TempDir folder;
  std::filesystem::create_symlink("/dev/full", folder / "trainer_log.jsonl");
  testing::internal::CaptureStderr();
  const auto log = TrainLog::open(options_in(folder.path()));
  for (int64_t step = 1; step <= 5; ++step) log->entry("train", step, 0, {{"loss", 1}});
  log->flush();
  const std::string warnings = testing::internal::GetCapturedStderr();
  EXPECT_NE(warnings.find("No space left"), std::string::npos) << warnings;
  EXPECT_NE(warnings.find("trainer_log.jsonl"), std::string::npos) << warnings;
  EXPECT_EQ(std::count(warnings.begin(), warnings.end(), '\n'), 1) << warnings;
  EXPECT_EQ(json::parse(log->trainer_state({5, 0, 0, 0}))["log_history"].size(), 5U);
}

TEST(TrainLog, RefusesAFolderItCannotWrite) {
  const test::TempDir folder;
  test::write_file(folder / "file", "");
  try {
    TrainLog::open(options_in(folder / "file"));
    FAIL() << "opened";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kStorage);
    EXPECT_NE(std::string(error.what()).find("trainer_log.jsonl"), std::string::npos) << error.what();
  }
}

TEST(TrainerState, HistoryOutlivesARestart) {
  const test::TempDir folder;
  const auto before = TrainLog::open(options_in(folder.path()));
  before->entry("train", 1, 0.5, {{"loss", 2.5}, {"grad_norm", std::nan("")}});
  before->entry("eval", 1, 0.5, {{"eval_loss", 2.25}});
  const std::string saved = before->trainer_state({1, 0.5, 1e12, 100});
  const auto after = TrainLog::open(options_in(folder.path()));
  after->restore(saved);
  after->entry("train", 2, 1.0, {{"loss", 2.0}});
  const json state = json::parse(after->trainer_state({10, 1.0, 2e12, 200}));
  EXPECT_EQ(state["log_history"], json::parse(R"([{"epoch": 0.5, "grad_norm": "NaN", "loss": 2.5, "step": 1},
    {"epoch": 0.5, "eval_loss": 2.25, "step": 1}, {"epoch": 1.0, "loss": 2.0, "step": 2}])"));
  EXPECT_EQ(state["num_input_tokens_seen"], 200);
  EXPECT_TRUE(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"].get<bool>());
}

TEST(TrainerState, TellsTheBestEvaluation) {
  const test::TempDir folder;
  LogOptions options = options_in(folder.path());
  options.max_steps = 100;
  const auto text = [&](const TrainerProgress& progress) {
    return json::parse(TrainLog::open(options)->trainer_state(progress));
  };
  const json none = text({.step = 7});
  EXPECT_TRUE(none["best_metric"].is_null() && none["best_global_step"].is_null() &&
              none["best_model_checkpoint"].is_null());
  EXPECT_FALSE(none["stateful_callbacks"].contains("EarlyStoppingCallback"));
  options.early_stopping_patience = 3;
  options.early_stopping_threshold = 0.5;
  const json state = text({.step = 7,
                           .stopped_early = true,
                           .best_step = 4,
                           .best_metric = 1.25,
                           .best_model_checkpoint = "out/checkpoint-4",
                           .evaluations_without_gain = 2});
  EXPECT_EQ(state["best_metric"], 1.25);
  EXPECT_EQ(state["best_global_step"], 4);
  EXPECT_EQ(state["best_model_checkpoint"], "out/checkpoint-4");
  // As EarlyStoppingCallback.state() of transformers gives it.
  EXPECT_EQ(state["stateful_callbacks"]["EarlyStoppingCallback"], json::parse(R"({
    "args": {"early_stopping_patience": 3, "early_stopping_threshold": 0.5},
    "attributes": {"early_stopping_patience_counter": 2}})"));
  EXPECT_TRUE(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"].get<bool>());
}

// Of some 155,000 entries; other files are refused at 64 MiB.
TEST(TrainerState, HistoryOfALongRunIsRead) {
  const std::string text = R"({"log_history": [{"loss": 1, "x": ")" + std::string(std::size_t{70} << 20, 'y') + "\"}]}";
  EXPECT_EQ(log_history_of(text).size(), 1);
}

TEST(TrainerState, RefusesADamagedFile) {
  for (const char* text : {"", "{", "[]", "{}", R"({"log_history": 3})"}) {
    EXPECT_THROW(log_history_of(text), base::Error) << text;
  }
}

}  // namespace log_test
}  // namespace sft::metrics
