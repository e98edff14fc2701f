// config.json of released models, in the words of transformers 4 and of 5, against what transformers makes of
// them (tests/golden/make_released_configs.py): number of parameters, windows, rotary frequencies.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/rope.h"
#include "sft/base/file.h"
#include "sft/model/decoder.h"

namespace sft::model {
namespace released_configs_test {

using nlohmann::json;

json released_configs() {
  return json::parse(base::read_text(std::string(SFT_SOURCE_DIR) + "/tests/golden/released_configs.json"));
}

void expect_frequencies(const RopeSpec& rope, const json& expected) {
  const at::Tensor found = rope_inverse_frequencies(rope);
  ASSERT_EQ(found.numel(), expected[0].get<int64_t>());
  EXPECT_EQ(found[0].item<float>(), expected[1].get<float>());
  EXPECT_EQ(found[-1].item<float>(), expected[2].get<float>());
}

void expect_agreement(const DecoderSpec& spec, const json& expected) {
  EXPECT_EQ(Decoder::create(spec)->spec().num_parameters, expected["num_parameters"].get<int64_t>());
  ASSERT_EQ(spec.layers.size(), expected["windows"].size());
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const json& window = expected["windows"][i];
    EXPECT_EQ(spec.layers[i].sliding_window,
              window.is_null() ? std::nullopt : std::optional<int64_t>(window.get<int64_t>()))
        << "layer " << i;
  }
  const json& frequencies = expected["frequencies"];
  if (frequencies.contains("inv_freq")) {
    ASSERT_EQ(spec.ropes.size(), 1U);
    expect_frequencies(spec.ropes[0], frequencies["inv_freq"]);
  }
  if (frequencies.contains("full_attention_inv_freq")) {
    ASSERT_EQ(spec.ropes.size(), 2U);
    expect_frequencies(spec.ropes[0], frequencies["full_attention_inv_freq"]);
    expect_frequencies(spec.ropes[1], frequencies["sliding_attention_inv_freq"]);
  }
}

TEST(ReleasedConfigs, AreReadAsTransformersReadsThem) {
  const json all = released_configs();
  EXPECT_GE(all.size(), 20U);
  for (const auto& [name, entry] : all.items()) {
    for (const char* form : {"released", "saved"}) {
      const testing::ScopedTrace trace(__FILE__, __LINE__, name + ", " + form);
      expect_agreement(spec_from_config_json(entry[form].dump(), name), entry);
    }
  }
}

}  // namespace released_configs_test
}  // namespace sft::model
