#include "train/model_work.h"

#include <gtest/gtest.h>

#include "sft/base/file.h"
#include "sft/model/spec.h"
#include "support/tiny_engine.h"

namespace sft::train {
namespace model_work_test {

TEST(ModelWork, CountsTheLinearMapsOfALlama) {
  const auto decoder = model::Decoder::create(testing::tiny_llama());
  const metrics::ModelWork work = model_work(*decoder);
  const int64_t attention = 32 * 32 + 2 * 16 * 32 + 32 * 32, feed_forward = 3 * 32 * 48;
  EXPECT_EQ(work.block_linear_parameters, 3 * (attention + feed_forward));
  EXPECT_EQ(work.head_parameters, 32 * 61) << "the output embedding counts, tied or not; the lookup does not";
  EXPECT_EQ(work.num_layers, 3);
  EXPECT_EQ(work.num_heads, 4);
  EXPECT_EQ(work.head_dim, 8);
}

TEST(ModelWork, CountsTheExpertsThatATokenIsSentTo) {
  const int64_t attention = 32 * 32 + 2 * 16 * 32 + 32 * 32, dense = 3 * 32 * 48;
  const int64_t router = 4 * 32, two_experts = 2 * 3 * 32 * 24, shared = 3 * 32 * 16 + 32;
  const metrics::ModelWork work = model_work(*model::Decoder::create(testing::tiny_mixture()));
  EXPECT_EQ(work.block_linear_parameters, 3 * attention + dense + 2 * (router + two_experts + shared));
  const model::AdapterSpec adapter = testing::tiny_adapter({"q_proj"});
  const metrics::ModelWork adapted = model_work(*model::Decoder::create(testing::tiny_mixture(), &adapter));
  EXPECT_EQ(adapted.frozen_block_linear_parameters, work.block_linear_parameters);
}

TEST(ModelWork, CountsTheProjectionsOfANarrowEmbedding) {
  const std::string file = SFT_SOURCE_DIR "/tests/golden/models/opt-350m-kind/config.json";
  const auto decoder = model::Decoder::create(model::spec_from_config_json(base::read_text(file), file));
  const model::DecoderSpec& spec = decoder->spec();
  const int64_t hidden = spec.hidden_size, narrow = spec.embedding_size;
  ASSERT_LT(narrow, hidden);
  const metrics::ModelWork work = model_work(*decoder);
  EXPECT_EQ(work.block_linear_parameters,
            spec.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * spec.intermediate_size) +
                2 * narrow * hidden);
  EXPECT_EQ(work.head_parameters, narrow * spec.vocab_size);
}

}  // namespace model_work_test
}  // namespace sft::train
