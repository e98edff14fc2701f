#include "train/goodput.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

namespace sft::train {
namespace goodput_test {

using nlohmann::json;

// A log as runs write it. `now` runs on; the clock of the day is `shift` off.
class Log {
 public:
  double now = 0, shift = 0;

  // A process: started `now`, its entries begin after `startup` seconds.
  void start(int64_t step, double startup) {
    start_process(step);
    now += startup;
    add("startup", step, {{"seconds", startup}});
  }
  void start_process(int64_t step) {
    born_ = now;
    started_ = clock();
    add("process", step, {{"process_started", started_}, {"last_sign_of_life", heartbeat_}});
  }
  void span(int64_t step, double productive, double data = 0, double evaluation = 0, double checkpoint = 0) {
    const double seconds = productive + data + evaluation + checkpoint;
    now += seconds;
    add("train", step, {});
    add("timing", step,
        {{"seconds", seconds}, {"data", data}, {"evaluation", evaluation}, {"checkpoint", checkpoint}});
  }
  void end(int64_t step) { add("goodput", step, {}); }
  void beat() { heartbeat_ = {{"process_started", started_}, {"seconds", now - born_}, {"time", clock()}}; }
  void text(const std::string& text) { text_ << text; }
  Goodput goodput() const {
    std::istringstream in(text_.str());
    return goodput_of_log(in);
  }

 private:
  double clock() const { return 1000 + now + shift; }
  void add(const char* event, int64_t step, json details) {
    details.update(json{{"event", event}, {"step", step}, {"time", clock()}});
    text_ << details.dump() << "\n";
  }
  std::ostringstream text_;
  double born_ = 0, started_ = 0;  // of the newest process: by `now`, by the clock
  json heartbeat_;
};

TEST(Goodput, OfAnUndisturbedRun) {
  Log log;
  log.start(0, 4);
  log.span(10, 20, 1);
  log.span(20, 20, 2, 8, 3);
  log.end(20);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.startup, 4);
  EXPECT_DOUBLE_EQ(result.productive, 40);
  EXPECT_DOUBLE_EQ(result.data, 3);
  EXPECT_DOUBLE_EQ(result.evaluation, 8);
  EXPECT_DOUBLE_EQ(result.checkpoint, 3);
  EXPECT_DOUBLE_EQ(result.lost + result.waiting, 0);
  EXPECT_EQ(result.starts, 1);
  EXPECT_EQ(result.steps, 20);
  EXPECT_DOUBLE_EQ(result.wall, 58);
  EXPECT_DOUBLE_EQ(result.share(), 40.0 / 58);
}

// Killed 5 s after its last entry, back after 60 s at its checkpoint of step 10, then on to its end.
void kill_and_go_on(Log& log) {
  log.now += 5;
  log.beat();
  log.now += 60;
  log.start(10, 6);
  log.span(20, 20);
  log.end(20);
}

// Five steps after its checkpoint.
TEST(Goodput, OfAKilledRunAndItsContinuation) {
  Log log;
  log.start(0, 4);
  log.span(10, 20, 1);
  log.span(10, 0, 0, 0, 2);  // the save
  log.span(15, 10, 0.5, 3);
  kill_and_go_on(log);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.productive, 40);
  EXPECT_DOUBLE_EQ(result.data, 1);
  EXPECT_DOUBLE_EQ(result.evaluation, 0) << "what was evaluated on the way is lost with it";
  EXPECT_DOUBLE_EQ(result.checkpoint, 2);
  EXPECT_DOUBLE_EQ(result.lost, 10 + 0.5 + 3 + 5);
  EXPECT_EQ(result.steps_lost, 5);
  EXPECT_DOUBLE_EQ(result.waiting, 60);
  EXPECT_DOUBLE_EQ(result.startup, 10);
  EXPECT_EQ(result.starts, 2);
  EXPECT_DOUBLE_EQ(result.wall, log.now);
}

TEST(Goodput, CountsLostStepsOnce) {
  Log log;
  log.start(0, 1);
  log.span(10, 10);
  for (int i = 0; i < 3; ++i) {  // each time five steps further, never to a save
    log.span(15, 5);
    log.beat();
    log.start(10, 1);
  }
  log.span(20, 10);
  log.end(20);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.productive, 20);
  EXPECT_DOUBLE_EQ(result.lost, 15);
  EXPECT_EQ(result.steps_lost, 15);
  EXPECT_DOUBLE_EQ(result.wall, log.now);
}

TEST(Goodput, ARunThatStoppedOnRequestLosesNothing) {
  Log log;
  log.start(0, 2);
  log.span(7, 7, 0, 0, 1);
  log.end(7);
  log.now += 1.5;
  log.beat();  // its heartbeat outlived its last entry a little
  log.now += 98.5;
  log.start(7, 2);
  log.span(10, 3);
  log.end(10);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.lost, 0);
  EXPECT_DOUBLE_EQ(result.waiting, 100);
  EXPECT_DOUBLE_EQ(result.wall, log.now);
}

TEST(Goodput, AProcessThatDiedWhileItStartedIsStartup) {
  Log log;
  log.start_process(0);
  log.now += 10;
  log.beat();
  log.now += 20;
  log.start(0, 2);
  log.span(1, 5);
  log.end(1);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.startup, 10 + 2);
  EXPECT_DOUBLE_EQ(result.waiting, 20);
  EXPECT_DOUBLE_EQ(result.lost, 0);
  EXPECT_DOUBLE_EQ(result.wall, log.now);
}

// An older checkpoint than the newest: the newest did not verify.
TEST(Goodput, GoesBackAsFarAsTheCheckpoint) {
  Log log;
  log.start(0, 1);
  for (int64_t step = 10; step <= 40; step += 10) log.span(step, 10, 0, 0, 1);
  log.start(15, 1);  // no entry is of step 15: what came after that of step 10 is lost
  log.span(50, 35);
  log.end(50);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.lost, 33);
  EXPECT_EQ(result.steps_lost, 25);
  EXPECT_DOUBLE_EQ(result.productive, 10 + 35);
  EXPECT_DOUBLE_EQ(result.checkpoint, 1);
  EXPECT_DOUBLE_EQ(result.wall, log.now);
}

TEST(Goodput, SurvivesLinesThatAreNoEntries) {
  Log log;
  log.text("not json\n{}\n[1]\n{\"event\": 3}\n");
  EXPECT_EQ(log.goodput().starts, 0);
  EXPECT_EQ(log.goodput().wall, 0);
  log.start(0, 1);
  log.text("{\"event\":\"timing\",\"seconds\":\"x\"}\n{\"event\":\"tim");
  EXPECT_EQ(log.goodput().starts, 1);
}

// On the way the clock of the day jumps.
Goodput killed_with_a_jump(double seconds) {
  Log log;
  log.start(0, 4);
  log.span(10, 20, 1, 0, 2);
  log.shift += seconds;
  log.span(15, 10);
  kill_and_go_on(log);
  return log.goodput();
}

TEST(Goodput, AClockThatJumpsWhileAProcessRunsChangesNothing) {
  const Goodput expected = killed_with_a_jump(0);
  EXPECT_DOUBLE_EQ(expected.wall, 128);
  for (const double seconds : {3600.0, -3600.0}) {
    const Goodput result = killed_with_a_jump(seconds);
    EXPECT_DOUBLE_EQ(result.wall, expected.wall) << seconds;
    EXPECT_DOUBLE_EQ(result.productive, expected.productive) << seconds;
    EXPECT_DOUBLE_EQ(result.startup, expected.startup) << seconds;
    EXPECT_DOUBLE_EQ(result.lost, expected.lost) << seconds;
    EXPECT_DOUBLE_EQ(result.waiting, 60) << seconds;
  }
}

TEST(Goodput, AClockSetBackBetweenTwoProcessesGivesNoNegativeGap) {
  Log log;
  log.start(0, 1);
  log.span(10, 10);
  log.now += 5;
  log.beat();
  log.now += 60;
  log.shift = -3600;
  log.start(10, 1);
  log.span(20, 10);
  log.end(20);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.waiting, 0);
  EXPECT_DOUBLE_EQ(result.lost, 5);
  EXPECT_DOUBLE_EQ(result.wall, log.now - 60);
}

// It died before its first heartbeat: the file still holds that of the process before.
TEST(Goodput, AnOlderProcessesHeartbeatIsNotTaken) {
  Log log;
  log.start(0, 1);
  log.span(10, 50);
  log.beat();
  log.now += 10;
  log.start_process(0);
  log.now += 5;
  log.start(0, 2);
  log.end(0);
  const Goodput result = log.goodput();
  EXPECT_DOUBLE_EQ(result.lost, 50);
  EXPECT_DOUBLE_EQ(result.startup, 1 + 2);
  EXPECT_DOUBLE_EQ(result.waiting, 10 + 5);
  EXPECT_DOUBLE_EQ(result.wall, log.now);
}

// What a second of work costs by Daly's model, M e^(R/M) (e^((t + d)/M) - 1) / t with t seconds between saves
// (R, the time of a restart, changes nothing): no interval near the advised one may cost noticeably less.
TEST(SaveInterval, IsTheBestByTheModelItApproximates) {
  using Cases = std::vector<std::pair<double, double>>;
  for (const auto& [d, m] : Cases{{1, 3600}, {30, 36000}, {60, 1800}, {300, 1000}}) {
    const auto cost = [d = d, m = m](double t) { return m * std::expm1((t + d) / m) / t; };
    const double advised = best_save_interval(d, m);
    double best = advised;
    for (double t = advised / 3; t < advised * 3; t *= 1.001) {
      if (cost(t) < cost(best)) best = t;
    }
    EXPECT_NEAR(advised, best, 0.02 * best) << "save " << d << " s, failures every " << m << " s";
    EXPECT_LT(cost(advised), cost(best) * 1.0001);
  }
  EXPECT_NEAR(best_save_interval(1, 1e6), std::sqrt(2e6), 2) << "Young's formula where saves are cheap";
  EXPECT_EQ(best_save_interval(50, 20), 20);
}

}  // namespace goodput_test
}  // namespace sft::train
