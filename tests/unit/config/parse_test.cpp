#include "sft/config/parse.h"

#include <gtest/gtest.h>

#include <fstream>

#include "config/hf_names.h"
#include "config/option_table.h"
#include "sft/base/error.h"

namespace sft::config {
namespace {

Options parsed(const std::string& ini, const std::vector<std::string>& settings = {}) {
  return parse_options({{"run.ini", ini}}, settings).options;
}

std::string refusal(const std::string& ini, const std::vector<std::string>& settings = {}) {
  try {
    parse_options({{"run.ini", ini}}, settings);
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    return error.what();
  }
  return "(accepted)";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Ini, ReadsValuesCommentsQuotesAndNone) {
  const Options o = parsed(
      "# comment\n"
      "  learning_rate = 2e-4   # trailing comment\n"
      "output_dir = a#b\n"
      "run_name = \"x # y\"\r\n"
      "bf16=True\n"
      "max-steps = 12\n"
      "max_length = None\n"
      "save_total_limit = 3\n");
  EXPECT_EQ(o.optimizer.learning_rate, 2e-4);
  EXPECT_EQ(o.save.output_dir, "a#b");
  EXPECT_EQ(o.logging.run_name, "x # y");
  EXPECT_TRUE(o.precision.bf16);
  EXPECT_EQ(o.schedule.max_steps, 12);
  EXPECT_FALSE(o.data.max_length.has_value());
  EXPECT_EQ(o.save.save_total_limit, 3);
}

TEST(Ini, LaterFilesAndTheCommandLineWin) {
  const Options o =
      parse_options({{"a.ini", "seed = 1\nmax_steps = 5\n"}, {"b.ini", "seed = 2\n"}}, {"max_steps=7"})
          .options;
  EXPECT_EQ(o.data.seed, 2);
  EXPECT_EQ(o.schedule.max_steps, 7);
}

TEST(Ini, NamesFileAndLineOfEveryProblemAtOnce) {
  const std::string text =
      refusal("seed = 1\nlerning_rate = 1\nbf16 = maybe\nseed = 2\n[section]\nnonsense\nrun_name = \"open\n");
  EXPECT_TRUE(contains(text, "run.ini:2: there is no option lerning_rate; did you mean learning_rate?"))
      << text;
  EXPECT_TRUE(contains(text, "run.ini:3: bf16 = maybe: must be true or false")) << text;
  EXPECT_TRUE(contains(text, "run.ini:4: seed was already set in line 1")) << text;
  EXPECT_TRUE(contains(text, "run.ini:5: [section]: sections are not used")) << text;
  EXPECT_TRUE(contains(text, "run.ini:6: 'nonsense' is not of the form key = value")) << text;
  EXPECT_TRUE(contains(text, "run.ini:7: run_name: the quotes are not closed")) << text;
}

TEST(Values, WrongTypesAndRangesSayWhatIsAllowed) {
  EXPECT_TRUE(contains(refusal("max_steps = many"), "must be a whole number"));
  EXPECT_TRUE(contains(refusal("learning_rate = fast"), "must be a number"));
  EXPECT_TRUE(contains(refusal("learning_rate = nan"), "must be a number"));
  EXPECT_TRUE(contains(refusal("learning_rate = -1"), "must be 0 or more"));
  EXPECT_TRUE(contains(refusal("per_device_train_batch_size = 0"), "must be 1 or more"));
  EXPECT_TRUE(contains(refusal("adam_beta1 = 1"), "must be in [0, 1)"));
  EXPECT_TRUE(contains(refusal("save_steps = 2.5"), "whole number of steps"));
  EXPECT_TRUE(contains(refusal("lr_scheduler_type = triangle"), "must be one of linear, cosine"));
  EXPECT_TRUE(contains(refusal("optim = adafactor"), "adamw_torch"));
  EXPECT_TRUE(contains(refusal("seed = None"), "must be a whole number"));
  EXPECT_EQ(parsed("max_steps = 1e3").schedule.max_steps, 1000);
  EXPECT_EQ(parsed("save_steps = 0.25").save.save_steps, 0.25);
}

TEST(Values, ContradictionsAreRefused) {
  EXPECT_TRUE(contains(refusal("max_steps = 0"), "max_steps = 0"));
  EXPECT_TRUE(contains(refusal("eval_strategy = steps"), "eval_dataset is not set"));
  EXPECT_TRUE(contains(refusal("global_batch_size = 9\nper_device_train_batch_size = 2"), "not a multiple"));
  EXPECT_TRUE(contains(refusal("logging_steps = 0"), "logging_strategy = no"));
  EXPECT_TRUE(contains(refusal("save_steps = 0"), "save_strategy = no"));
  EXPECT_TRUE(contains(refusal("overwrite_output_dir = true\nresume_from_checkpoint = true"), "contradict"));
  EXPECT_TRUE(contains(refusal("device = cpu\ncomm_backend = nccl"), "device = cuda"));
  EXPECT_TRUE(contains(refusal("num_train_epochs = 0"), "more than 0"));
}

TEST(Names, OldOnesAreTakenWithANotice) {
  const ParsedOptions p = parse_options(
      {{"run.ini", "evaluation_strategy = no\nmax_seq_length = 77\nwarmup_ratio = 0.1\nno_cuda = true\n"}},
      {});
  EXPECT_EQ(p.options.data.max_length, 77);
  EXPECT_EQ(p.options.schedule.warmup_steps, 0.1);
  EXPECT_EQ(p.options.runtime.device, "cpu");
  ASSERT_EQ(p.notices.size(), 4U);
  EXPECT_TRUE(contains(p.notices[1], "max_seq_length is another name of max_length"));
}

TEST(Names, ThoseWithoutEffectAreNamedInOneNoticeAndUnsupportedOnesRefused) {
  const ParsedOptions p = parse_options(
      {{"run.ini", "dataloader_num_workers = 4\npacking = False\nfp16 = false\npush_to_hub = false\n"}}, {});
  ASSERT_EQ(p.notices.size(), 1U);
  EXPECT_TRUE(contains(p.notices[0], "dataloader_num_workers, packing, fp16, push_to_hub"));
  EXPECT_TRUE(contains(refusal("fp16 = true"), "use bf16 = true"));
  EXPECT_TRUE(contains(refusal("deepspeed = zero3.json"), "data parallelism"));
  EXPECT_TRUE(contains(refusal("neftune_noise_alpha = 5"), "NEFTune is not supported yet"));
  EXPECT_TRUE(contains(refusal("use_peft = true"), "adapters"));
}

TEST(Names, EveryHuggingFaceArgumentIsKnown) {
  std::ifstream file(SFT_SOURCE_DIR "/tests/golden/hf_argument_names.txt");
  int count = 0;
  for (std::string name; std::getline(file, name); ++count) {
    bool known = find_option(name) || find_hf_argument(name);
    for (const Alias& alias : aliases()) known = known || alias.name == name;
    EXPECT_TRUE(known) << name;
  }
  EXPECT_GT(count, 180);
}

TEST(Steps, FractionsAreRoundedUpAsTransformersDoes) {
  EXPECT_EQ(resolve_steps(5, 100), 5);
  EXPECT_EQ(resolve_steps(0.1, 25), 3);
  EXPECT_EQ(resolve_steps(0.5, 1), 1);
}

CommandLine command_line(std::vector<const char*> words) {
  words.insert(words.begin(), "sft-dist");
  return parse_command_line(static_cast<int>(words.size()), words.data());
}

TEST(CommandLine, TakesFilesSettingsAndCommands) {
  const CommandLine c = command_line(
      {"--args", "a.ini", "--max_steps", "-1", "--bf16", "--learning-rate=3e-4", "--args", "b.ini"});
  EXPECT_EQ(c.command, Command::kTrain);
  EXPECT_EQ(c.ini_texts_from, (std::vector<std::string>{"a.ini", "b.ini"}));
  EXPECT_EQ(c.settings, (std::vector<std::string>{"max_steps=-1", "bf16=true", "learning-rate=3e-4"}));
  EXPECT_EQ(command_line({"--help"}).command, Command::kHelp);
  EXPECT_EQ(command_line({"--args", "a", "--print-config=json"}).command, Command::kPrintConfigJson);
  EXPECT_EQ(command_line({"--print-config"}).command, Command::kPrintConfig);
  EXPECT_EQ(command_line({"verify", "x", "y"}).operands, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(command_line({"generate", "m", "--ids", "1,2"}).operands,
            (std::vector<std::string>{"m", "1,2", "40"}));
  EXPECT_THROW(command_line({"train"}), base::Error);
  EXPECT_THROW(command_line({"verify"}), base::Error);
  EXPECT_THROW(command_line({"generate", "m"}), base::Error);
  EXPECT_THROW(command_line({"--print-config=xml"}), base::Error);
  EXPECT_THROW(command_line({"--args", "a.ini", "stray"}), base::Error);
}

TEST(CommandLine, ResumeIsAFlagOrAFolder) {
  EXPECT_EQ(parsed("", {"resume_from_checkpoint=true"}).save.resume_from_checkpoint, "true");
  EXPECT_EQ(parsed("resume_from_checkpoint = False").save.resume_from_checkpoint, "");
  EXPECT_EQ(parsed("resume_from_checkpoint = out/checkpoint-5").save.resume_from_checkpoint,
            "out/checkpoint-5");
}

}  // namespace
}  // namespace sft::config
