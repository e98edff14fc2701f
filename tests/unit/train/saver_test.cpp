// What becomes of a run whose checkpoints are written, late or not at all.
#include "sft/train/saver.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sft/base/error.h"
#include "support/solo_communicator.h"
#include "train/time_account.h"

namespace sft::train {
namespace saver_test {

using checkpoint::Failure;
using checkpoint::SaveFailed;
using checkpoint::SaveReport;

// Saves succeed, or fail where told; one in the background takes two stages.
class ScriptedStore final : public checkpoint::Store {
 public:
  std::vector<std::string> calls;
  bool fails = false, is_writing = false;

  SaveReport save(const checkpoint::Contents& contents) override {
    calls.push_back("save " + std::to_string(contents.step));
    step_ = contents.step;
    return result();
  }
  void start_save(const checkpoint::Contents& contents) override {
    calls.push_back("start " + std::to_string(contents.step));
    step_ = contents.step;
    stages_left_ = 2;
  }
  bool ready() const override { return !is_writing; }
  std::optional<SaveReport> advance() override {
    if (--stages_left_ > 0) return std::nullopt;
    return result();
  }
  SaveReport finish_save() override {
    calls.push_back("finish " + std::to_string(step_));
    return result();
  }

  bool has_results() const override { return false; }
  void discard_checkpoints() override {}
  void keep_only(int64_t) override {}
  checkpoint::Place place_of(const checkpoint::Reader&) override { return {}; }
  void set_aside_after(int64_t) override {}
  bool has_checkpoint(int64_t) override { return false; }
  SaveReport save_final_model(const checkpoint::Contents&) override { return {}; }
  std::unique_ptr<checkpoint::Reader> open_newest() override { return nullptr; }
  std::unique_ptr<checkpoint::Reader> open_checkpoint(const std::filesystem::path&) override {
    return nullptr;
  }

 private:
  SaveReport result() const {
    if (fails)
      throw SaveFailed("it could not be saved", Failure{2, "h2", "cannot write f: full", "f", "full"});
    return {"checkpoint-" + std::to_string(step_), 100, 50, 2.0, 1.5};
  }

  int64_t step_ = 0;
  int stages_left_ = 0;
};

class RecordedLog final : public metrics::TrainLog {
 public:
  std::vector<nlohmann::json> events;  // of checkpoints
  std::vector<int64_t> spans;          // the step at which each ended

  void event(const std::string& name, int64_t step, const std::string& details) override {
    if (name == "timing") spans.push_back(step);
    if (!name.starts_with("checkpoint")) return;
    nlohmann::json event = nlohmann::json::parse(details);
    event["event"] = name;
    event["step"] = step;
    events.push_back(event);
  }
  void table(const std::string&, const std::vector<std::pair<std::string, std::string>>&) override {}
  void progress(int64_t, double, double, double) override {}
  void entry(const std::string&, int64_t, double, const metrics::Values&) override {}
  std::string trainer_state(const metrics::TrainerProgress&) const override { return ""; }
  void restore(const std::string&) override {}
  void flush() override {}
};

class SaverTest : public ::testing::Test {
 protected:
  void save(int64_t step, bool in_background = false) {
    state_.step = step;
    saver_.save(state_, contents(), in_background);
  }
  checkpoint::Contents contents() const {
    checkpoint::Contents contents;
    contents.step = state_.step;
    return contents;
  }

  testing::SoloCommunicator comm_;
  ScriptedStore store_;
  RecordedLog log_;
  base::Watchdog watchdog_{600};
  base::PhaseTimers timers_;
  TimeAccount account_{
      {.output_dir = {}, .hosts = {"h1"}, .mean_minutes_between_failures = 600}, comm_, timers_, log_};
  Saver saver_{{comm_, store_, log_, watchdog_, timers_, account_}, /*storage_failures_max=*/3};
  TrainState state_;
};

TEST_F(SaverTest, ABackgroundSaveIsCommittedByTheStepsAfterIt) {
  save(10, /*in_background=*/true);
  EXPECT_TRUE(saver_.has(10));
  EXPECT_TRUE(log_.events.empty());
  store_.is_writing = true;
  EXPECT_TRUE(saver_.is_writing());
  state_.step = 12;
  saver_.advance(state_);
  EXPECT_TRUE(log_.events.empty());
  saver_.advance(state_);
  ASSERT_EQ(log_.events.size(), 1U);
  const nlohmann::json& event = log_.events[0];
  EXPECT_EQ(event["event"], "checkpoint");
  EXPECT_EQ(event["step"], 10);
  EXPECT_EQ(event["seconds"], 2.0);
  EXPECT_EQ(event["write_seconds"], 1.5);
  EXPECT_GE(event["stall_seconds"].get<double>(), 0.0);
  EXPECT_EQ(event["in_background"], true);
  saver_.advance(state_);  // nothing under way: nothing happens
  saver_.finish(state_);
  EXPECT_EQ(store_.calls, std::vector<std::string>{"start 10"});
  EXPECT_TRUE(saver_.has(10));
  EXPECT_FALSE(saver_.has(12));
}

TEST_F(SaverTest, FinishWaitsForTheSaveUnderWay) {
  save(10, true);
  saver_.finish(state_);
  EXPECT_EQ(store_.calls, (std::vector<std::string>{"start 10", "finish 10"}));
  EXPECT_EQ(log_.events.size(), 1U);
}

// A checkpoint is the best one once it exists; the one before it stays that if it cannot be written.
TEST_F(SaverTest, OnlyACommittedCheckpointIsTheBest) {
  state_.best.step = 10;
  state_.step = 10;
  EXPECT_EQ(Saver::as_saved(state_).best.checkpoint_step, 10);
  save(10, true);
  EXPECT_EQ(state_.best.checkpoint_step, -1);
  state_.step = 11;
  state_.best.step = 11;  // while the save of 10 is under way
  saver_.finish(state_);
  EXPECT_EQ(state_.best.checkpoint_step, 10);
  store_.fails = true;
  save(11, true);
  saver_.finish(state_);
  EXPECT_EQ(state_.best.checkpoint_step, 10);
  EXPECT_FALSE(saver_.has(11));
  state_.step = 12;
  EXPECT_EQ(Saver::as_saved(state_).best.checkpoint_step, 10);
}

TEST_F(SaverTest, FailuresAreLoggedAndCountedInARow) {
  store_.fails = true;
  save(10);
  save(20, true);
  EXPECT_NO_THROW(saver_.check_storage());
  saver_.finish(state_);
  EXPECT_NO_THROW(saver_.check_storage());
  ASSERT_EQ(log_.events.size(), 2U);
  const nlohmann::json& event = log_.events[1];
  EXPECT_EQ(event["event"], "checkpoint_failed");
  EXPECT_EQ(event["step"], 20);
  EXPECT_EQ(event["rank"], 2);
  EXPECT_EQ(event["host"], "h2");
  EXPECT_EQ(event["file"], "f");
  EXPECT_EQ(event["error"], "full");
  EXPECT_EQ(event["failures_in_row"], 2);

  store_.fails = false;
  save(30);  // starts the count again
  store_.fails = true;
  save(40);
  save(50);
  EXPECT_NO_THROW(saver_.check_storage());
  save(60);
  try {
    saver_.check_storage();
    ADD_FAILURE() << "three in a row were taken";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kStorage);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
    EXPECT_NE(std::string(error.what()).find("storage_failures_max = 3"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("it could not be saved"), std::string::npos) << error.what();
  }
}

// Advice rests on what a save cost: on a committed one, and all of it.
TEST_F(SaverTest, OnlyACommittedSaveCounts) {
  const auto said_by = [](const std::function<void()>& action) {
    ::testing::internal::CaptureStderr();
    action();
    return ::testing::internal::GetCapturedStderr();
  };
  const std::string advice = "mean_minutes_between_failures = 600";
  account_.begin(0);
  store_.fails = true;
  EXPECT_EQ(said_by([&] { save(10); }).find(advice), std::string::npos);
  EXPECT_TRUE(log_.spans.empty());

  store_.fails = false;
  EXPECT_EQ(said_by([&] { save(20, /*in_background=*/true); }).find(advice), std::string::npos);
  EXPECT_EQ(log_.spans, std::vector<int64_t>{20}) << "a restart may go on from here";
  state_.step = 22;
  EXPECT_EQ(said_by([&] { saver_.advance(state_); }).find(advice), std::string::npos);
  EXPECT_NE(said_by([&] { saver_.advance(state_); }).find(advice), std::string::npos);
  EXPECT_EQ(log_.spans, (std::vector<int64_t>{20, 22}));

  EXPECT_EQ(said_by([&] { save(30); }).find(advice), std::string::npos) << "advised once";
  EXPECT_EQ(log_.spans, (std::vector<int64_t>{20, 22, 30}));
}

TEST_F(SaverTest, TheLastSaveMustSucceed) {
  state_.step = 10;
  EXPECT_NO_THROW(saver_.save_last(state_, contents()));
  EXPECT_TRUE(saver_.has(10));
  store_.fails = true;
  state_.step = 11;
  try {
    saver_.save_last(state_, contents());
    ADD_FAILURE() << "no error";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kStorage);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
  }
  EXPECT_EQ(log_.events.back()["event"], "checkpoint_failed");
}

}  // namespace saver_test
}  // namespace sft::train
