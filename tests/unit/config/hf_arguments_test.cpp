// Arguments of Hugging Face's that are no options here.
#include "config/hf_arguments.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "config/option_table.h"
#include "support.h"

namespace sft::config {
namespace hf_arguments_test {

std::vector<std::pair<std::string, std::string>> golden_arguments() {
  std::vector<std::pair<std::string, std::string>> list;
  std::ifstream golden(std::filesystem::path(SFT_SOURCE_DIR) / "tests/golden/hf_argument_names.txt");
  for (std::string line; std::getline(golden, line);) {
    list.emplace_back(line.substr(0, line.find('\t')), line.substr(line.find('\t') + 1));
  }
  return list;
}

TEST(HfArguments, NoneIsUnknown) {
  const auto arguments = golden_arguments();
  EXPECT_GE(arguments.size(), 150u);
  for (const auto& [name, value] : arguments) {
    EXPECT_TRUE(find_option(name) || find_alias(name) || find_hf_argument(name)) << name;
  }
}

// A file that writes down defaults of transformers and TRL must be taken.
TEST(HfArguments, DefaultsAreHarmless) {
  for (const auto& [name, value] : golden_arguments()) {
    const HfArgument* argument = find_hf_argument(name);
    if (!argument || value.empty()) continue;
    const bool is_text = value.front() == '"';
    EXPECT_TRUE(is_harmless(*argument, is_text ? value.substr(1, value.size() - 2) : value))
        << name << " = " << value;
  }
}

TEST(HfArguments, WithoutEffectGiveOneNotice) {
  const auto parsed = parse_text(
      "dataloader_num_workers = 4\ntorch_compile = true\nuse_liger_kernel = true\n"
      "push_to_hub = False\nfp16 = 0\ndeepspeed = None\nfsdp =\nsave_safetensors = True\n");
  ASSERT_EQ(parsed.notices.size(), 1u);
  EXPECT_EQ(parsed.notices[0],
            "without effect in sft-dist: dataloader_num_workers, torch_compile, use_liger_kernel, "
            "push_to_hub, fp16, "
            "deepspeed, fsdp, save_safetensors");
}

TEST(HfArguments, LoggingDirSaysWhereTheFilesGo) {
  const auto parsed = parse_text("logging_dir = logs");
  ASSERT_EQ(parsed.notices.size(), 1u);
  EXPECT_EQ(parsed.notices[0], "logging_dir: TensorBoard files go to output_dir/runs");
}

TEST(HfArguments, TheModelsOwnTypeIsTakenWithWhatIsDoneInstead) {
  const auto parsed = parse_text("dtype = auto\ntorch_dtype = AUTO\n");
  ASSERT_EQ(parsed.notices.size(), 2u);
  EXPECT_EQ(parsed.notices[0],
            "dtype = auto: weights are kept in float32; for bf16 products set bf16 = true, for frozen "
            "weights in bf16 base_dtype");
  EXPECT_EQ(parsed.notices[1],
            "torch_dtype = AUTO: weights are kept in float32; for bf16 products set bf16 = true, for frozen "
            "weights in bf16 base_dtype");
}

TEST(HfArguments, ThoseThatWouldChangeTheResultAreRefused) {
  EXPECT_EQ(error_of_text("fp16 = true"), "run.ini:1: fp16 = true: use bf16 = true, or float32");
  for (const char* line : {"deepspeed = ds.json",
                           "bnb_4bit_compute_dtype = bfloat16",
                           "bnb_4bit_use_double_quant = true",
                           "split_batches = true",
                           "dispatch_batches = true",
                           "fsdp = full_shard",
                           "push_to_hub = true",
                           "load_in_8bit = true",
                           "bnb_4bit_quant_type = fp4",
                           "dtype = bfloat16",
                           "adafactor = true",
                           "truncation_mode = keep_end",
                           "dataset_streaming = true",
                           "save_safetensors = false",
                           "model_revision = v2",
                           "auto_find_batch_size = true",
                           "ignore_data_skip = true",
                           "peft_config = lora.json",
                           "accelerator_config = a.json",
                           "bf16_full_eval = true",
                           "save_on_each_node = true"}) {
    const std::string message = error_of_text(line);
    EXPECT_EQ(message.rfind(std::string("run.ini:1: ") + line + ": ", 0), 0u) << message;
  }
}

}  // namespace hf_arguments_test
}  // namespace sft::config
