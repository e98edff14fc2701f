#include "sft/train/train_state.h"

#include <gtest/gtest.h>

#include "sft/base/error.h"

namespace sft::train {
namespace train_state_test {

TEST(TrainState, SurvivesTheRoundTripBitForBit) {
  TrainState state;
  state.step = 123456789012;
  state.cursor = {3, 17, 12};
  state.epoch = 3.0 + 1.0 / 3.0;
  state.optimizer_steps = 5;
  state.num_tokens = int64_t{1} << 53;
  state.total_flos = 1.0e300 / 3;
  state.non_finite_in_row = 1;
  state.non_finite_total = 2;
  state.loss_sum = 0.1 + 0.2;
  state.window_loss_sum = 1.0 / 7;
  state.window_steps = 9;
  state.best = {40, 0.1 + 0.7, 30, 2};
  state.optimizer_scalars = {0.1, 1.0 / 3};
  state.window_tokens = {3, 1.0 / 3, 0.1 + 0.7};
  state.spikes = {{0.1 + 0.2, 1.0 / 7, 1e-300}, 4, 11};
  const TrainState back = TrainState::from_json(state.to_json());
  EXPECT_EQ(back.to_json(), state.to_json());
  EXPECT_EQ(back.step, state.step);
  EXPECT_EQ(back.cursor, state.cursor);
  EXPECT_EQ(back.epoch, state.epoch);
  EXPECT_EQ(back.num_tokens, state.num_tokens);
  EXPECT_EQ(back.total_flos, state.total_flos);
  EXPECT_EQ(back.loss_sum, state.loss_sum);
  EXPECT_EQ(back.window_loss_sum, state.window_loss_sum);
  EXPECT_EQ(back.window_steps, state.window_steps);
  EXPECT_EQ(back.best.step, 40);
  EXPECT_EQ(back.best.metric, 0.1 + 0.7);
  EXPECT_EQ(back.best.checkpoint_step, 30);
  EXPECT_EQ(back.best.evaluations_without_gain, 2);
  EXPECT_EQ(back.optimizer_scalars, state.optimizer_scalars);
  EXPECT_EQ(back.spikes.norms, state.spikes.norms);
  EXPECT_EQ(back.spikes.in_row, 4);
  EXPECT_EQ(back.spikes.total, 11);
  EXPECT_EQ(back.window_tokens.weight, 3);
  EXPECT_EQ(back.window_tokens.accuracy_sum, 1.0 / 3);
  EXPECT_EQ(back.window_tokens.entropy_sum, 0.1 + 0.7);
}

TEST(TrainState, NamesAMissingKey) {
  try {
    TrainState::from_json(R"({"step": 1})");
    FAIL() << "accepted";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
    EXPECT_NE(std::string(error.what()).find("epoch_index"), std::string::npos);
  }
}

}  // namespace train_state_test
}  // namespace sft::train
