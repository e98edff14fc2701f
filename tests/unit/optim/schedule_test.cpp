#include "sft/optim/schedule.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sft/base/error.h"
#include "sft/base/file.h"

namespace sft::optim {
namespace schedule_test {

using nlohmann::json;

config::ScheduleOptions options(const std::string& type, const std::string& kwargs, double warmup_steps = 0) {
  config::ScheduleOptions result;
  result.lr_scheduler_type = type;
  result.lr_scheduler_kwargs = kwargs;
  result.warmup_steps = warmup_steps;
  return result;
}

std::string error_of(const config::ScheduleOptions& wrong) {
  try {
    Schedule(wrong, 1e-3, 40);
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    return error.what();
  }
  ADD_FAILURE() << wrong.lr_scheduler_type << " with '" << wrong.lr_scheduler_kwargs << "' was accepted";
  return "";
}

void expect_mentions(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Schedule, EqualsTransformers) {
  const json golden = json::parse(base::read_text(SFT_SOURCE_DIR "/tests/golden/schedules.json"));
  ASSERT_GE(golden["cases"].size(), 20U);
  for (const json& expected : golden["cases"]) {
    const Schedule schedule(options(expected["lr_scheduler_type"], expected["lr_scheduler_kwargs"].dump(),
                                    expected["warmup_steps"]),
                            expected["learning_rate"], expected["max_steps"]);
    EXPECT_EQ(schedule.warmup_steps(), expected["resolved_warmup_steps"].get<int64_t>());
    const auto rates = expected["rates"].get<std::vector<double>>();
    for (std::size_t step = 0; step < rates.size(); ++step) {
      EXPECT_NEAR(schedule.at(static_cast<int64_t>(step)), rates[step], 1e-12 * rates[step])
          << expected["lr_scheduler_type"] << expected["lr_scheduler_kwargs"] << " step " << step;
    }
  }
}

TEST(Schedule, TakesKwargsAsPairs) {
  const Schedule pairs(options("polynomial", " power = 2 , lr_end=1e-5", 3), 1e-3, 20);
  const Schedule object(options("polynomial", R"({"power": 2, "lr_end": 1e-5})", 3), 1e-3, 20);
  const Schedule plain(options("polynomial", "power=None", 3), 1e-3, 20);
  for (int64_t step = 0; step < 20; ++step) EXPECT_EQ(pairs.at(step), object.at(step));
  EXPECT_NE(pairs.at(10), plain.at(10));
  EXPECT_NO_THROW(Schedule(options("warmup_stable_decay", "num_decay_steps=4,decay_type=1-sqrt"), 1e-3, 20));
}

TEST(Schedule, RefusesWhatItDoesNotKnow) {
  expect_mentions(error_of(options("linaer", "")), {"linaer", "linear", "warmup_stable_decay"});
  expect_mentions(error_of(options("cosine", R"({"cycles": 2})")), {"cosine", "cycles", "num_cycles"});
  expect_mentions(error_of(options("linear", "num_cycles=2")), {"linear", "num_cycles", "takes none"});
  expect_mentions(error_of(options("cosine", "num_cycles")), {"num_cycles", "name=value"});
  expect_mentions(error_of(options("cosine", "num_cycles=1,num_cycles=2")), {"num_cycles", "twice"});
  expect_mentions(error_of(options("cosine", "num_cycles=many")), {"num_cycles", "many", "not a number"});
  expect_mentions(error_of(options("cosine", "num_cycles=-1")), {"num_cycles", "negative"});
  expect_mentions(error_of(options("cosine", R"({"num_cycles": )")), {"cosine", "JSON"});
}

TEST(Schedule, RefusesMissingOrContradictoryValues) {
  expect_mentions(error_of(options("cosine_with_min_lr", "")), {"min_lr", "min_lr_rate"});
  expect_mentions(error_of(options("cosine_with_min_lr", "min_lr=1e-5,min_lr_rate=0.1")), {"exactly one"});
  expect_mentions(error_of(options("warmup_stable_decay", "")), {"num_decay_steps"});
  expect_mentions(error_of(options("warmup_stable_decay", "num_decay_steps=5,decay_type=step")),
                  {"decay_type", "step", "1-sqrt"});
  expect_mentions(error_of(options("polynomial", "lr_end=0.1")), {"lr_end", "learning_rate"});
  expect_mentions(error_of(options("inverse_sqrt", "timescale=0")), {"timescale", "positive"});
  expect_mentions(error_of(options("linear", "", -1)), {"warmup_steps", "-1"});
}

}  // namespace schedule_test
}  // namespace sft::optim
